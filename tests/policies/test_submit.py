"""Asking for one state at a time: what waits is asked together, and nothing waits for what comes
later."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from swe_gym_env.actions import action_format
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.adapt import as_policy
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.policies.budget import SPENT, Account, Budget, Budgeted, Spent
from swe_gym_env.policies.format_adapter import FormatAdapter
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.policies.submit import Batcher, submitting
from swe_gym_env.types import TaskView


def state(number: int) -> State:
    view = TaskView("task", "", "", "", "")
    return State((number, 0, "task", 0, 0, "student"), view, "system", (), f"see {number}")


class Gate:
    """Answers what it was asked once it is opened; notes each call."""

    name, needs_sandbox = "gate", False

    def __init__(self) -> None:
        self.open, self.called = threading.Semaphore(0), threading.Semaphore(0)
        self.calls: list[list[int]] = []

    def act(self, states: Sequence[State]) -> list[Reply]:
        self.calls.append([one.key[0] for one in states])
        self.called.release()
        assert self.open.acquire(timeout=30)
        return [Reply(text=one.observation) for one in states]


def test_what_waits_is_asked_together_in_order() -> None:
    gate = Gate()
    batcher = submitting(gate)
    first = batcher.submit(state(0))
    assert gate.called.acquire(timeout=30)
    later = [batcher.submit(state(n)) for n in (1, 2, 3)]
    unwanted = batcher.submit(state(4))
    assert unwanted.cancel() and not first.done()
    gate.open.release(2)
    assert [f.result(30).text for f in [first, *later]] == [f"see {n}" for n in range(4)]
    assert gate.calls == [[0], [1, 2, 3]]


def test_its_thread_ends_when_nothing_waits() -> None:
    before = threading.active_count()
    gate = Gate()
    batcher = Batcher(gate)
    for number in range(3):
        gate.open.release()
        assert batcher.submit(state(number)).result(30).text == f"see {number}"
    for thread in threading.enumerate():
        if thread.name == "asks a policy":
            thread.join(30)
    assert threading.active_count() == before
    assert isinstance(pickle.loads(pickle.dumps(Batcher(ScriptedPolicy(["x"])))), Batcher)


class Broken:
    name, needs_sandbox = "broken", False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def act(self, states: Sequence[State]) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("error", [OSError("away"), SetupError("no weights"), KeyboardInterrupt()])
def test_what_a_policy_raises_is_raised_where_the_reply_is_awaited(error: BaseException) -> None:
    with pytest.raises(type(error)):
        submitting(Broken(error)).submit(state(0)).result(30)
    with pytest.raises(SetupError, match="must return one Reply for each state"):
        submitting(Broken(["text"])).submit(state(0)).result(30)
    with pytest.raises(SetupError, match="must return one Reply for each state"):
        submitting(Broken([])).submit(state(0)).result(30)


class Direct:
    """A policy with ``submit`` whose answers come when the test says so."""

    name, needs_sandbox = "direct", False

    def __init__(self) -> None:
        self.asked: list[Future[Reply]] = []

    def act(self, states: Sequence[State]) -> list[Reply]:
        raise AssertionError("submit is preferred")

    def submit(self, _: State) -> Future[Reply]:
        self.asked.append(Future())
        return self.asked[-1]


def test_every_wrapper_passes_submit_on() -> None:
    direct = Direct()
    assert submitting(direct) is direct
    account = Account(Budget(calls=9), Spent())
    wrapped = Budgeted(
        FormatAdapter(LazyPolicy(lambda: direct, "lazy"), action_format("bash_block")),
        account,
        len,
    )
    replies = [submitting(wrapped).submit(state(n)) for n in range(3)]
    for number in (2, 0, 1):  # in any order
        assert not replies[number].done()
        text = f"```bash\necho {number}\n```"
        direct.asked[number].set_result(Reply(text=text, generated_tokens=5, prompt_tokens=7))
        action = replies[number].result(30).action
        assert action is not None and action.arguments["command"] == f"echo {number}"
    assert account.spent == Spent(calls=3, prompt_tokens=21, generated_tokens=15)

    class Bare:
        def __init__(self) -> None:
            self.submit = direct.submit

        act = Direct.act

    assert as_policy(Bare(), "policy").submit(state(0)) is direct.asked[-1]  # type: ignore[attr-defined]


def test_a_canceled_reply_is_not_asked_and_not_paid() -> None:
    direct, account = Direct(), Account(Budget(calls=1), Spent())
    budgeted = Budgeted(direct, account, len)
    reply = budgeted.submit(state(0))
    assert reply.cancel() and not direct.asked[0].set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        reply.result(0)
    assert account.spent == Spent()
    assert not budgeted.submit(state(0)).done(), "the call of the canceled one is free again"
    assert budgeted.submit(state(0)).result(0).error == SPENT


def test_many_threads_keep_the_budget_exactly() -> None:
    class Counts:
        name, needs_sandbox = "counts", False

        def __init__(self) -> None:
            self.calls = 0
            self.lock = threading.Lock()

        def act(self, states: Sequence[State]) -> list[Reply]:
            with self.lock:
                self.calls += len(states)
            return [Reply(text="x") for _ in states]

    counts = Counts()
    budgeted = Budgeted(counts, Account(Budget(calls=25), Spent(calls=5)), len)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: budgeted.submit(state(n)).result(30), range(100)))
    assert counts.calls == 20 == sum(reply.error == "" for reply in replies)
    assert sum(reply.error == SPENT for reply in replies) == 80


def test_a_lazy_model_is_loaded_once_for_many_threads() -> None:
    loads: list[int] = []

    def load() -> ScriptedPolicy:
        loads.append(1)
        return ScriptedPolicy(lambda one: one.observation)

    lazy = LazyPolicy(load)
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda n: lazy.submit(state(n)).result(30).text, range(64)))
    assert texts == [f"see {n}" for n in range(64)] and len(loads) == 1
