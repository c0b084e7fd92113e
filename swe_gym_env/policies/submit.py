"""Asking a policy for one state at a time, and many states at once: ``submit`` beside ``act``.

A policy that can work on many requests side by side (a server's client, a model with continuous
batching) has a method ``submit(state) -> Future[Reply]``. For one that has only ``act``, a thread
asks it for all states that wait, as soon as it is free. Either way no state waits for a state that
comes later, and nobody waits for the slowest of a batch but those who are in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Key, Policy, Reply, State

T = TypeVar("T")


class Submitting(Protocol):
    """What takes one state at a time."""

    def submit(self, state: State) -> Future[Reply]:
        """The reply when it is there. An exception of the future is one of the policy."""


def submitting(policy: Policy) -> Submitting:
    """``policy`` itself if it has ``submit``; else a :class:`Batcher` that asks it."""
    own: Any = policy
    return own if callable(getattr(policy, "submit", None)) else Batcher(policy)


def release(policy: Policy | None, key: Key) -> None:
    """Say to ``policy``, if it has ``ended``, that the episode of ``key`` has ended."""
    if ended := getattr(policy, "ended", None):
        ended(key)


def act_by_submit(policy: Submitting, states: Sequence[State]) -> list[Reply]:
    """``act`` of a policy that works on many requests at the same time."""
    asked = [policy.submit(state) for state in states]
    try:
        return [reply.result() for reply in asked]
    finally:  # after Ctrl-C nobody waits for an answer
        for reply in asked:
            reply.cancel()


def then(reply: Future[Reply], change: Callable[[Reply], Reply]) -> Future[Reply]:
    """``change(reply)`` when it is there. Cancel it, and ``reply`` is canceled too."""
    changed: Future[Reply] = Future()

    def done(there: Future[Reply]) -> None:
        if changed.set_running_or_notify_cancel():
            settle(changed, lambda: change(there.result()))

    reply.add_done_callback(done)
    changed.add_done_callback(lambda _: reply.cancel())  # no effect where it is done
    return changed


def settle(future: Future[T], call: Callable[[], T]) -> None:
    """Give ``future`` the result of ``call``, or its exception."""
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def replies(policy: Policy, states: Sequence[State]) -> Sequence[Reply]:
    """``policy.act(states)``. SetupError if it does not return what a policy promises."""
    answers = policy.act(states)
    if len(answers) != len(states) or not all(isinstance(answer, Reply) for answer in answers):
        raise SetupError(
            f"policy {policy.name!r} must return one Reply for each state, not "
            f"{str(answers)[:200]} for {len(states)} states"
        )
    return answers


class Batcher:
    """Asks ``policy`` for all states that wait, in order of arrival, whenever it is free. A state
    whose future was canceled is left out. Its thread exists while there is something to ask."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lock = threading.Lock()  # guards what follows
        self._waiting: list[tuple[State, Future[Reply]]] = []
        self._asking = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process has its own states and thread."""
        return Batcher, (self._policy,)

    def submit(self, state: State) -> Future[Reply]:
        future: Future[Reply] = Future()
        with self._lock:
            self._waiting.append((state, future))
            start, self._asking = not self._asking, True
        if start:
            threading.Thread(target=self._ask, name="asks a policy", daemon=True).start()
        return future

    def _ask(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    self._asking = False
                    return
            ask_all(self._policy, waiting)


def ask_all(policy: Policy, waiting: Sequence[tuple[State, Future[Reply]]]) -> None:
    """Settle the futures of all states that are still wanted, by one call of ``act``."""
    batch = [(state, future) for state, future in waiting if future.set_running_or_notify_cancel()]
    if not batch:
        return
    try:
        answers = replies(policy, [state for state, _ in batch])
    except BaseException as error:  # also a KeyboardInterrupt, which the roll-out raises
        for _, future in batch:
            future.set_exception(error)
        return
    for (_, future), answer in zip(batch, answers, strict=True):
        future.set_result(answer)
