"""Which server an episode asks, and how many requests a server is sent at once.

An episode stays with the server of its first turn, which has the keys and values of its history; at
that turn it goes to the server with the fewest episodes. Moving a long conversation later to
balance load costs more than it gains (verl #6533).

A server whose KV cache is full evicts histories that it will need again, and becomes slower the
more it is asked (prime-rl #3255). So the requests under way are limited by the use of the cache
that the server reports: added to while there is room, and cut back when there is none. An episode
that is played on another machine asks its server from there, unseen. It counts as one request for
as long as it lasts, so that the limit holds for all machines together.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from swe_gym_env.errors import PolicyError

T = TypeVar("T")

LEAST = 4  # requests that are always allowed
ROOM, FULL = 0.7, 0.9  # use of the KV cache below which more are allowed, above which fewer
LOOK_SECONDS = 2.0  # between two looks at the cache's use

_USAGE = re.compile(r"^vllm:(?:kv|gpu)_cache_usage_perc(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)


def cache_usage(metrics: str) -> float | None:
    """Share of the KV cache in use, from the text of vLLM's ``/metrics``; None if it is not there.

    Several engines may stand behind one address, each with its cache and its line. The fullest one
    counts: it evicts histories, however much room the others have.
    """
    return max((float(found) for found in _USAGE.findall(metrics)), default=None)


class Placement(Generic[T]):
    """Episodes and their servers. Safe to use from many threads."""

    def __init__(self, servers: list[T]) -> None:
        self._servers = servers
        self._lock = threading.Lock()  # guards what follows
        self._of: dict[tuple[object, ...], int] = {}
        self._load = [0] * len(servers)

    def server(self, episode: tuple[object, ...]) -> T:
        """The server of an episode; chosen now if it has none yet."""
        with self._lock:
            at = self._of.get(episode)
            if at is None:
                at = min(range(len(self._load)), key=self._load.__getitem__)
                self._of[episode] = at
                self._load[at] += 1
            return self._servers[at]

    def release(self, episode: tuple[object, ...]) -> None:
        """The episode has ended. It may be called more than once."""
        with self._lock:
            at = self._of.pop(episode, None)
            if at is not None:
                self._load[at] -= 1

    @property
    def load(self) -> list[int]:
        """Episodes at each server."""
        with self._lock:
            return list(self._load)


class Admission:
    """How many requests are under way at one server.

    Args:
        most: Never more than these.
        usage: Asks the server which share of its KV cache is in use; None where it does not say,
            and then nothing is limited but by ``most``.
    """

    def __init__(self, most: int, usage: Callable[[], float | None]) -> None:
        self._most, self._usage = most, usage
        self._free = threading.Condition()  # guards what follows
        self.limit = most
        self._under_way = 0
        self._looked = time.monotonic()
        self._waiting: set[Hashable] = set()  # episodes elsewhere that have not begun to ask
        self._holding: set[Hashable] = set()  # and those that may ask
        self._closed = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """While a request is under way; waits until one more is allowed."""
        self._enter(lambda: False)
        try:
            yield
        finally:
            self._leave()

    def hold(self, episode: Hashable) -> None:
        """Count an episode elsewhere as a request under way until :meth:`release`; waits until one
        more is allowed. PolicyError if the episode was released meanwhile."""
        with self._free:
            if episode in self._holding:
                return
            self._waiting.add(episode)
        entered = self._enter(lambda: episode not in self._waiting)
        with self._free:
            if entered and episode in self._waiting:
                self._waiting.discard(episode)
                self._holding.add(episode)
                return
            held = episode in self._holding  # asked for twice
        if entered:
            self._leave()
        if not held:
            raise PolicyError("the episode has ended")

    def release(self, episode: Hashable) -> None:
        """The episode has ended. It may be called more than once."""
        with self._free:
            self._waiting.discard(episode)
            held = episode in self._holding
            self._holding.discard(episode)
            self._free.notify_all()
        if held:
            self._leave()

    def close(self) -> None:
        """Those who wait get a PolicyError."""
        with self._free:
            self._closed = True
            self._free.notify_all()

    def _enter(self, gone: Callable[[], bool]) -> bool:
        """Wait until one more is allowed, and count it; False if ``gone`` says so meanwhile."""
        while True:
            if self._time_to_look():
                self.adjust(self._usage())
            with self._free:
                if not self._free.wait_for(
                    lambda: self._closed or gone() or self._under_way < self.limit, LOOK_SECONDS
                ):
                    continue
                if self._closed:
                    raise PolicyError("the servers are being closed")
                if gone():
                    return False
                self._under_way += 1
                return True

    def _leave(self) -> None:
        with self._free:
            self._under_way -= 1
            self._free.notify_all()

    def _time_to_look(self) -> bool:
        """True for one of the threads that ask, from time to time."""
        now = time.monotonic()
        with self._free:
            if now - self._looked < LOOK_SECONDS:
                return False
            self._looked = now
            return True

    def adjust(self, usage: float | None) -> None:
        """Additive increase, multiplicative decrease, from what is really under way."""
        if usage is None:
            return
        with self._free:
            if usage > FULL and len(self._holding) <= self.limit:  # else the last cut is under way
                self.limit = max(LEAST, min(self.limit, self._under_way) * 3 // 4)
            elif usage < ROOM:
                self.limit = min(self._most, self.limit + max(1, self.limit // 8))
            self._free.notify_all()
