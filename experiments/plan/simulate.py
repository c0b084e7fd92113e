"""The loop of swe_gym_env/rollout/driver.py, simulated event by event.

In turn: wait for what runs in the sandboxes (though not long for the slow), fill up with new
episodes, ask student and teacher for one turn of all that wait, execute it. Grading goes on beside.
The time that the loop spends waiting is put down to what it waited for, so the parts add up to the
whole.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import simpy

from experiments.plan.engine import Engine, Process, Used, busy
from experiments.plan.hardware import Speed
from swe_gym_env.rollout.driver import BATCH_WAIT_SECONDS, COMMANDS_PER_CPU


@dataclass(frozen=True)
class Script:
    """What happens in one episode, a list entry for each turn: tokens seen before it, tokens of the
    turn, whether the teacher executes it, tokens of the teacher's turn, CPU seconds of the
    command; and whether there is a patch to grade in the end."""

    observed: tuple[int, ...]
    taken: tuple[int, ...]
    led: tuple[bool, ...]
    labels: tuple[int, ...]
    steps: tuple[float, ...]
    graded: bool = True

    @property
    def tokens(self) -> int:
        return sum(self.observed) + sum(self.taken)


@dataclass(frozen=True)
class SandboxTimes:
    """CPU seconds of a sandbox's life beside the turns, and of the built-in teacher for one turn
    (None: the teacher is a model). ``cpus`` are those that run commands."""

    reset: float
    finish: float
    grade: float
    expert: float | None
    cpus: int


Make = Callable[[simpy.Environment, simpy.Resource | None], Sequence[Engine]]


def replicas(
    count: int, speed: Speed, rows: int, cache_tokens: float, continuous: bool = True
) -> Make:
    def make(env: simpy.Environment, _: simpy.Resource | None) -> Sequence[Engine]:
        return [Engine(env, speed, rows, cache_tokens, continuous) for _ in range(count)]

    return make


@dataclass(frozen=True)
class Machine:
    """What plays the episodes. ``student`` and ``teacher`` make their engines. ``shared``: how many
    things the one processor does at full speed that sandboxes and models share; None: models have
    GPUs."""

    sandboxes: SandboxTimes
    student: Make
    teacher: Make | None
    shared: int | None
    concurrency: int


@dataclass
class Played:
    """``waited``: seconds of the loop by what it waited for; they add up to ``seconds``."""

    seconds: float = 0.0
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    student: Used = field(default_factory=Used)
    teacher: Used = field(default_factory=Used)
    turns: int = 0
    episodes: int = 0


def _scaled(used: Used, factor: float) -> Used:
    return Used(
        used.prefill * factor,
        used.decode * factor,
        round(used.prompt * factor),
        round(used.computed * factor),
        round(used.generated * factor),
    )


@dataclass(eq=False)
class _Live:
    number: int
    script: Script
    turn: int = 0
    history: int = 0
    pending: simpy.Event | None = None
    since: float = 0.0


class _Loop:
    def __init__(self, scripts: Sequence[Script], machine: Machine, annotate: bool) -> None:
        self.env = env = simpy.Environment()
        self.machine, self.annotate = machine, annotate
        self.processor = simpy.Resource(env, machine.shared) if machine.shared else None
        sandboxes, many = machine.sandboxes, machine.concurrency
        self.steppers = simpy.Resource(env, max(1, min(many, COMMANDS_PER_CPU * sandboxes.cpus)))
        self.graders = simpy.Resource(env, max(1, min(many, sandboxes.cpus)))
        self.student = list(machine.student(env, self.processor))
        self.teacher = list(machine.teacher(env, self.processor)) if machine.teacher else []
        self.waiting = deque(_Live(number, script) for number, script in enumerate(scripts))
        self.live: list[_Live] = []
        self.grading: list[simpy.Event] = []
        self.ended: list[dict[str, float]] = []  # what was waited for, at each episode's end
        self.played = Played(episodes=len(scripts))

    def run(self) -> Played:
        self.env.run(self.env.process(self._drive()))
        self.played.seconds = self.env.now
        for engines, used in ((self.student, "student"), (self.teacher, "teacher")):
            parts = [engine.used for engine in engines]
            total = Used(
                sum(p.prefill for p in parts),
                sum(p.decode for p in parts),
                sum(p.prompt for p in parts),
                sum(p.computed for p in parts),
                sum(p.generated for p in parts),
            )
            setattr(self.played, used, total)
        return self.played

    def _drive(self) -> Process:
        while self.waiting or self.live or self.grading:
            yield from self._settle()
            while self.waiting and len(self.live) < self.machine.concurrency:
                live = self.waiting.popleft()
                self._start(live, self.machine.sandboxes.reset)
                self.live.append(live)
            yield from self._settle()
            ready = [live for live in self.live if live.pending is None]
            if ready:
                yield from self._batch(ready)
            self.grading = [event for event in self.grading if not event.processed]
            if self.grading and not self.live and not self.waiting:
                yield from self._wait("grading", simpy.AnyOf(self.env, self.grading))

    def _wait(self, why: str, event: simpy.Event) -> Process:
        began = self.env.now
        yield event
        self.played.waited[why] += self.env.now - began

    def _settle(self) -> Process:
        env = self.env
        running = [live for live in self.live if live.pending is not None]
        fresh = [e for e in running if env.now - e.since < BATCH_WAIT_SECONDS]
        if fresh:
            late = simpy.AllOf(env, [e.pending for e in fresh if e.pending]) | env.timeout(
                BATCH_WAIT_SECONDS
            )
            yield from self._wait("sandboxes", late)
        elif running and len(running) == len(self.live):
            any_of = simpy.AnyOf(env, [*(e.pending for e in running if e.pending), *self.grading])
            yield from self._wait("sandboxes", any_of)
        for live in [e for e in self.live if e.pending is not None and e.pending.processed]:
            live.pending = None
            if live.turn == len(live.script.taken):
                self.live.remove(live)
                self.ended.append(dict(self.played.waited))
                seconds = self.machine.sandboxes.grade if live.script.graded else 0.0
                self.grading.append(env.process(self._work(self.graders, seconds)))

    def _start(self, live: _Live, seconds: float) -> None:
        live.since = self.env.now
        live.pending = self.env.process(self._work(self.steppers, seconds))

    def _work(self, pool: simpy.Resource, seconds: float) -> Process:
        with pool.request() as thread:
            yield thread
            yield from busy(self.env, self.processor, seconds)

    def _batch(self, ready: Sequence[_Live]) -> Process:
        """Student and teacher side by side; the loop goes on when both have said all."""
        env, began = self.env, self.env.now
        asked: list[tuple[str, simpy.Event]] = []
        before = {engine: (engine.used.prefill, engine.used.decode) for engine in self._engines}
        for live in ready:
            script, turn = live.script, live.turn
            prompt, led = live.history + script.observed[turn], script.led[turn]
            if not led:
                engine = self.student[live.number % len(self.student)]
                asked.append(("student", engine.ask(live.number, prompt, script.taken[turn])))
            if led or self.annotate:
                asked.append(("teacher", self._ask_teacher(live, prompt, script.labels[turn])))
        who_is_asked = dict.fromkeys(who for who, _ in asked)
        ends = {who: [event for w, event in asked if w == who] for who in who_is_asked}
        last: dict[str, float] = {}
        for who, events in ends.items():
            yield simpy.AllOf(env, events)
            last[who] = max(env.now, last.get(who, 0.0))
        self._put_down(max(last, key=lambda who: last[who]), env.now - began, before)
        for live in ready:
            script, turn = live.script, live.turn
            live.history += script.observed[turn] + script.taken[turn]
            live.turn += 1
            ends_now = live.turn == len(script.taken)
            seconds = script.steps[turn] + (self.machine.sandboxes.finish if ends_now else 0.0)
            self._start(live, seconds)
        self.played.turns += len(ready)

    @property
    def _engines(self) -> list[Engine]:
        return [*self.student, *self.teacher]

    def _ask_teacher(self, live: _Live, prompt: int, generate: int) -> simpy.Event:
        if self.machine.sandboxes.expert is not None:
            return self.env.process(self._work(self.steppers, self.machine.sandboxes.expert))
        return self.teacher[live.number % len(self.teacher)].ask(live.number, prompt, generate)

    def _put_down(
        self, who: str, seconds: float, before: dict[Engine, tuple[float, float]]
    ) -> None:
        """To prefill and decoding, as the engines that were waited for divided their time."""
        engines = self.student if who == "student" else self.teacher
        if who == "teacher" and not engines:
            self.played.waited["labels"] += seconds
            return
        prefill = sum(engine.used.prefill - before[engine][0] for engine in engines)
        decode = sum(engine.used.decode - before[engine][1] for engine in engines)
        share = prefill / (prefill + decode) if prefill + decode else 0.0
        self.played.waited[f"prefill ({who})"] += seconds * share
        self.played.waited[f"decode ({who})"] += seconds * (1 - share)


def play(scripts: Sequence[Script], machine: Machine, annotate: bool) -> Played:
    """Play every script. ``annotate``: the teacher is asked in every state, not only where it
    acts."""
    return _Loop(scripts, machine, annotate).run()


def play_many(scripts: Sequence[Script], machine: Machine, annotate: bool, count: int) -> Played:
    """As :func:`play`, for ``count`` episodes of which ``scripts`` are the first: what came between
    a quarter and three quarters of their ends is taken to go on."""
    loop = _Loop(scripts, machine, annotate)
    whole = loop.run()
    if count <= len(scripts):
        return whole
    first, last = loop.ended[len(scripts) // 4], loop.ended[3 * len(scripts) // 4]
    more = (count - len(scripts)) / (3 * len(scripts) // 4 - len(scripts) // 4)
    size = count / len(scripts)
    return Played(
        whole.seconds + more * (sum(last.values()) - sum(first.values())),
        {
            name: seconds + more * (last.get(name, 0.0) - first.get(name, 0.0))
            for name, seconds in whole.waited.items()
        },
        _scaled(whole.student, size),
        _scaled(whole.teacher, size),
        round(whole.turns * size),
        count,
    )
