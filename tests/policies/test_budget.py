"""The teacher's budget: how much is counted, what happens once it is spent."""

from __future__ import annotations

import json
import logging

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Reply
from swe_gym_env.policies.budget import SPENT, Account, Budget, Budgeted, Prices, Spent
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.types import ToolCall
from tests.policies.test_server import model as model
from tests.policies.test_server import policy as policy
from tests.policies.test_server import state


def account(spent: Spent = Spent(), **limits) -> tuple[Account, list[Spent]]:  # noqa: B008
    prices = Prices(**limits.pop("prices", {}))
    kept: list[Spent] = []
    return Account(Budget(**limits, prices=prices), spent, kept.append), kept


def words(text: str) -> int:
    return len(text.split())


def test_a_server_says_what_it_billed_and_the_money_runs_out(model, policy) -> None:
    billed = {"prompt_tokens": 400_000, "completion_tokens": 50_000}
    model.answer = lambda body, n: (
        200,
        json.dumps({"choices": [{"message": {"content": "ok"}}], "usage": billed}).encode(),
    )
    paid, kept = account(money=3.0, prices={"prompt": 2.0, "generated": 8.0})  # 1.2 a call
    teacher = Budgeted(policy(), paid, words)
    replies = [teacher.act([state(repeat=n)])[0] for n in range(5)]
    assert [reply.text for reply in replies] == ["ok"] * 3 + [None] * 2
    assert [reply.error for reply in replies] == [""] * 3 + [SPENT] * 2
    assert len(model.requests) == len(kept) == 3 and sum(kept, Spent()) == paid.spent
    assert paid.metrics == {
        "teacher_calls": 3,
        "teacher_prompt_tokens": 1_200_000,
        "teacher_generated_tokens": 150_000,
        "teacher_scored_tokens": 0,
        "teacher_cost": pytest.approx(3.6),
        "budget_spent": True,
    }


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many", "completion_tokens": -1}])
def test_a_server_that_does_not_count_is_counted_here(model, policy, usage) -> None:
    answer = {"choices": [{"message": {"content": "one two three"}}], "usage": usage}
    model.answer = lambda body, n: (200, json.dumps(answer).encode())
    paid, _ = account()
    Budgeted(policy(), paid, words).act([state(observation="x" * 400)])
    assert paid.spent.generated_tokens == 3 and 100 <= paid.spent.prompt_tokens < 110


def test_calls_are_cut_off_exactly_within_a_batch_and_logged_once(caplog) -> None:
    paid, _ = account(Spent(calls=4), calls=6)
    call = ToolCall("bash", {"command": "ls -l"}, "I look around.")
    teacher = Budgeted(
        ScriptedPolicy([Reply(action=call)], "expert", needs_sandbox=True), paid, words
    )
    assert (teacher.name, teacher.needs_sandbox) == ("expert", True)
    with caplog.at_level(logging.WARNING):
        first = teacher.act([state(repeat=n) for n in range(3)])
        again = teacher.act([state()])
    assert [reply.error for reply in first + again] == ["", "", SPENT, SPENT]
    assert paid.spent == Spent(calls=6, generated_tokens=10)
    assert len(caplog.records) == 1 and "calls 6 of 6" in caplog.text


def test_ids_that_a_model_sampled_are_its_tokens() -> None:
    paid, _ = account(generated_tokens=5)
    teacher = Budgeted(ScriptedPolicy([Reply(text="a b", token_ids=(1, 2, 3))]), paid, words)
    assert [teacher.act([state()])[0].error for _ in range(3)] == ["", "", SPENT]


def test_a_call_that_could_not_be_made_is_not_reserved_any_longer(model, policy) -> None:
    model.answer = lambda body, n: (200, b'{"choices": [{"message": {"content": "ok"}}]}')
    paid, kept = account(calls=2)
    inner = policy()
    teacher, good = Budgeted(inner, paid, words), inner.check

    def broken() -> None:
        raise SetupError("start it")

    inner.check = broken
    for _ in range(5):
        with pytest.raises(SetupError, match="start it"):
            teacher.submit(state())
    assert not kept and paid.spent == Spent()
    inner.check = good
    replies = [teacher.submit(state()).result() for _ in range(3)]
    assert [reply.error for reply in replies] == ["", "", SPENT]


def test_failed_calls_count_and_cost_no_tokens() -> None:
    paid, _ = account(calls=1)
    Budgeted(ScriptedPolicy([Reply(error="HTTP 500")]), paid, words).act([state()])
    assert paid.spent == Spent(calls=1) and paid.over()


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(SetupError, match=r"teacher\.prices\.prompt"):
        Budget(money=1.0)
    with pytest.raises(SetupError, match=r"teacher\.budget\.calls=-1"):
        Budget(calls=-1)
