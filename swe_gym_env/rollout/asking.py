"""How the episodes of a roll-out ask their policies.

Normally each episode asks when it is ready and waits for its own answer alone (:class:`Freely`).
With :class:`FixedBatches` all episodes are asked for together, once none of them is doing anything
else. That is slower, but a model then computes the same batches in every run, so that its rounding
is the same too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from swe_gym_env.policies.base import Policy, Reply, State
from swe_gym_env.policies.submit import Submitting, ask_all, submitting

# The longest time that a fixed batch waits for its slowest command; a late episode joins a later
# batch. It is longer than most commands, so that batches normally are the same in each run.
BATCH_WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.5  # how often that time is looked at

Question = tuple[Policy, State]


class Asking(Protocol):
    """Takes the questions of all episodes. Safe to call from many threads."""

    def ask(self, order: int, questions: Sequence[Question]) -> list[Future[Reply]]:
        """The futures of the replies. ``order`` is the number of the episode."""

    def join(self, order: int) -> None:
        """An episode begins to play."""

    def leave(self, order: int) -> None:
        """An episode that has joined plays no longer; it may still ask for labels."""

    def close(self) -> None:
        """Nobody waits any more: what is not being answered is canceled."""


class Freely:
    """Each question goes to its policy at once."""

    def __init__(self, policies: Sequence[Policy], in_sandbox: threading.Semaphore) -> None:
        """``in_sandbox`` limits how many policies look into a sandbox at the same time, which takes
        as much as a command of the agent."""
        self._submitting: dict[int, Submitting] = {id(p): submitting(p) for p in policies}
        self._in_sandbox = in_sandbox
        self._lock = threading.Lock()  # guards what follows
        self._open: set[Future[Reply]] = set()
        self._closed = False

    def ask(self, order: int, questions: Sequence[Question]) -> list[Future[Reply]]:
        return [self._ask(policy, state) for policy, state in questions]

    def _ask(self, policy: Policy, state: State) -> Future[Reply]:
        if policy.needs_sandbox:
            self._in_sandbox.acquire()
        try:
            asked = self._submitting[id(policy)].submit(state)
        except Exception as error:
            asked = Future()
            asked.set_exception(error)
        if policy.needs_sandbox:
            asked.add_done_callback(lambda _: self._in_sandbox.release())
        with self._lock:
            self._open.add(asked)
            closed = self._closed
        asked.add_done_callback(self._answered)
        if closed:
            asked.cancel()
        return asked

    def _answered(self, asked: Future[Reply]) -> None:
        with self._lock:
            self._open.discard(asked)

    def join(self, order: int) -> None: ...

    def leave(self, order: int) -> None: ...

    def close(self) -> None:
        with self._lock:
            self._closed = True
            there = list(self._open)
        for asked in there:
            asked.cancel()


class FixedBatches:
    """One thread asks for everything that waits, once every episode in play waits for an answer."""

    def __init__(self, side_by_side: bool) -> None:
        """``side_by_side``: two policies may work at the same time; not if both use sandboxes."""
        self._side_by_side = side_by_side
        self._news = threading.Condition()  # guards what follows
        self._playing: set[int] = set()
        self._waiting: list[tuple[int, Policy, State, Future[Reply]]] = []
        self._closed = False
        self._since = time.monotonic()  # when the newest batch was answered
        self._thread = threading.Thread(target=self._run, name="asks in batches", daemon=True)
        self._thread.start()

    def ask(self, order: int, questions: Sequence[Question]) -> list[Future[Reply]]:
        futures: list[Future[Reply]] = [Future() for _ in questions]
        with self._news:
            if self._closed:
                for future in futures:
                    future.cancel()
                return futures
            for (policy, state), future in zip(questions, futures, strict=True):
                self._waiting.append((order, policy, state, future))
            self._news.notify()
        return futures

    def join(self, order: int) -> None:
        with self._news:
            self._playing.add(order)

    def leave(self, order: int) -> None:
        with self._news:
            self._playing.discard(order)
            self._news.notify()

    def close(self) -> None:
        with self._news:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._news.notify()
        for *_, future in left:
            future.cancel()

    def _ready(self) -> bool:
        if self._closed:
            return True
        waiting = {order for order, *_ in self._waiting}
        late = time.monotonic() - self._since > BATCH_WAIT_SECONDS
        return bool(waiting) and (self._playing <= waiting or late)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._ready():
                    self._news.wait(LOOK_SECONDS if self._waiting else None)
                if self._closed:
                    return
                batch, self._waiting = self._waiting, []
            self._answer(sorted(batch, key=lambda one: one[0]))
            with self._news:
                self._since = time.monotonic()

    def _answer(self, batch: Sequence[tuple[int, Policy, State, Future[Reply]]]) -> None:
        policies = {id(policy): policy for _, policy, *_ in batch}
        threads = []
        for policy in policies.values():
            mine = [(state, future) for _, asked, state, future in batch if asked is policy]
            thread = threading.Thread(target=ask_all, args=(policy, mine), daemon=True)
            thread.start()
            if self._side_by_side:
                threads.append(thread)
            else:
                thread.join()
        for thread in threads:
            thread.join()
