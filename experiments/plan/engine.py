"""A server of one model, simulated: prefill with a prefix cache, then decoding in one growing and
shrinking batch.

All answers of a batch advance together, so the simulation jumps from one answer's end to the next
and needs an event for a turn, not for a token.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from experiments.plan.hardware import Speed

Process = Generator[simpy.Event, Any, None]


@dataclass
class PrefixCache:
    """Keys and values of episodes, least recently used out first. Sizes are in tokens."""

    capacity: float
    held: OrderedDict[int, int] = field(default_factory=OrderedDict)
    size: int = 0

    def take(self, episode: int, prompt: int) -> int:
        """How many tokens of the prompt are there already. At least one is always computed."""
        found = self.held.pop(episode, 0)
        self.size -= found
        return min(found, prompt - 1)

    def free_memory(self, wanted: float) -> None:
        while self.held and self.size + wanted > self.capacity:
            _, gone = self.held.popitem(last=False)
            self.size -= gone

    def keep(self, episode: int, tokens: int) -> None:
        if tokens <= self.capacity:
            self.free_memory(tokens)
            self.held[episode] = tokens
            self.size += tokens


@dataclass(order=True)
class _Row:
    finish: float  # in steps of the engine
    episode: int
    prompt: int = field(compare=False)
    generate: int = field(compare=False)
    done: simpy.Event = field(compare=False)


@dataclass
class Used:
    """What an engine did. Seconds of prefill and of decoding; ``computed`` of the ``prompt`` tokens
    were not in the cache."""

    prefill: float = 0.0
    decode: float = 0.0
    prompt: int = 0
    computed: int = 0
    generated: int = 0


class Engine:
    """One replica. ``rows`` answers at most at once. ``continuous``: a new one joins as soon as
    there is room, else when the batch before has ended. ``processor`` is what it shares with the
    sandboxes, if it runs on the CPU."""

    def __init__(
        self,
        env: simpy.Environment,
        speed: Speed,
        rows: int,
        cache_tokens: float,
        continuous: bool,
        processor: simpy.Resource | None = None,
    ) -> None:
        self.env, self.speed, self.rows, self.continuous = env, speed, rows, continuous
        self.processor = processor
        self.cache = PrefixCache(cache_tokens)
        self.queue: deque[_Row] = deque()
        self.active: list[_Row] = []
        self.present: dict[int, int] = {}  # longest prompt of an episode's active rows
        self.context = 0.0  # tokens of the active rows' contexts
        self.steps = 0.0
        self.used = Used()
        self.arrived = env.event()
        env.process(self._run())

    def ask(self, episode: int, prompt: int, generate: int) -> simpy.Event:
        """Succeeds when ``generate`` tokens have followed the ``prompt`` tokens."""
        row = _Row(0.0, episode, prompt, max(1, generate), self.env.event())
        self.queue.append(row)
        if not self.arrived.triggered:
            self.arrived.succeed()
        return row.done

    def _run(self) -> Process:
        while True:
            if not self.queue and not self.active:
                self.arrived = self.env.event()
                yield self.arrived
                yield self.env.timeout(0)  # all that come at this instant
            if self.queue and (self.continuous or not self.active):
                seconds = self._admit()
                self.used.prefill += seconds
                yield from busy(self.env, self.processor, seconds)
            if self.active:
                yield from self._decode()

    def _admit(self) -> float:
        """Seconds of prefill of those that are let in."""
        seconds = 0.0
        while self.queue and len(self.active) < self.rows:
            row = self.queue[0]
            size = row.prompt + row.generate
            if self.active and self.context + size > self.cache.capacity:
                break
            self.queue.popleft()
            known = max(
                self.cache.take(row.episode, row.prompt),
                min(self.present.get(row.episode, 0), row.prompt - 1),
            )
            self.present[row.episode] = max(self.present.get(row.episode, 0), row.prompt)
            self.cache.free_memory(self.context + size)
            new = row.prompt - known
            seconds += self.speed.prefill(new, known)
            self.used.prompt += row.prompt
            self.used.computed += new
            row.finish = self.steps + row.generate
            heapq.heappush(self.active, row)
            self.context += size
        return seconds

    def _decode(self) -> Process:
        """Until the first answer ends, or another comes that may join."""
        rows = len(self.active)
        pace = self.speed.step(rows, self.context)
        left = self.active[0].finish - self.steps
        began = self.env.now
        if self.continuous and rows < self.rows and not self.queue:
            self.arrived = self.env.event()
            ended = self.env.timeout(left * pace)
            yield ended | self.arrived
            made = left if ended.processed else min(left, math.ceil((self.env.now - began) / pace))
            if not ended.processed:
                yield self.env.timeout(max(0.0, began + made * pace - self.env.now))
        else:
            made = left
            yield from busy(self.env, self.processor, left * pace)
        self.used.decode += made * pace
        self.steps += made
        while self.active and self.active[0].finish <= self.steps + 1e-9:
            row = heapq.heappop(self.active)
            self.context -= row.prompt + row.generate
            self.used.generated += row.generate
            if row.prompt >= self.present.get(row.episode, 0):  # else a later turn is there
                self.present.pop(row.episode, None)
                self.cache.keep(row.episode, row.prompt + row.generate)
            row.done.succeed()


def busy(env: simpy.Environment, processor: simpy.Resource | None, seconds: float) -> Process:
    """Work of so many seconds, in its turn where a processor is shared."""
    if processor is None:
        yield env.timeout(seconds)
        return
    with processor.request() as turn:
        yield turn
        yield env.timeout(seconds)
