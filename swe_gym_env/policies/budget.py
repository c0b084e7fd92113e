"""What a teacher may cost, and what it has cost so far.

A teacher is the dearest part of a run, so methods are compared at the same budget. Once it is
spent, nothing stops: further states stay unlabeled, a turn that was the teacher's falls to the
student, and what is left to score stays unscored.

Spending is recorded as it happens, answer by answer, so that a killed run neither forgets it nor
counts it twice. Calls are cut off exactly; tokens and money are known only when the answers are
there, so they may be exceeded by the requests that are under way (scores: by one episode).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Key, Policy, Reply, State, needs_answer
from swe_gym_env.policies.submit import Submitting, release, submitting, then

log = logging.getLogger(__name__)

SPENT = "teacher budget spent"  # the ``error`` of a Reply beyond the budget


@dataclass(frozen=True)
class Spent:
    """``calls``: turns asked for. Tokens are the teacher's own where it reports them."""

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in any one currency; None: not known."""

    prompt: float | None = None
    generated: float | None = None
    scored: float | None = None

    def cost(self, spent: Spent) -> float | None:
        """None where no price is known."""
        given = {name: price for name, price in asdict(self).items() if price is not None}
        if not given:
            return None
        return sum(price * getattr(spent, f"{name}_tokens") for name, price in given.items()) / 1e6


@dataclass(frozen=True)
class Budget:
    """The most that a teacher may cost in one run; None: no limit."""

    calls: int | None = None
    generated_tokens: int | None = None
    scored_tokens: int | None = None
    money: float | None = None
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        for name, limit in self._limits().items():
            if limit < 0:
                raise SetupError(f"teacher.budget.{name}={limit}: it is 0 or more, or null")
        if self.money is not None and self.prices.cost(Spent()) is None:
            raise SetupError(
                f"teacher.budget.money={self.money} needs prices for a million tokens: give "
                "teacher.prices.prompt and teacher.prices.generated (or .scored)"
            )

    def _limits(self) -> dict[str, float]:
        names = ("calls", "generated_tokens", "scored_tokens", "money")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def reached(self, spent: Spent) -> str:
        """The first limit that ``spent`` has come to, in words; "" where all is well."""
        now: Mapping[str, float] = {**asdict(spent), "money": self.prices.cost(spent) or 0.0}
        for name, limit in self._limits().items():
            if now[name] >= limit:
                return f"{name} {now[name]:g} of {limit:g}"
        return ""


class Account:
    """A budget and what was spent of it. ``record`` is called with each spending, to keep it."""

    def __init__(
        self, budget: Budget, spent: Spent, record: Callable[[Spent], None] = lambda _: None
    ) -> None:
        self.budget, self.spent, self._record = budget, spent, record
        self._explained = False

    def add(self, spent: Spent) -> None:
        self.spent += spent
        self._record(spent)

    def over(self) -> bool:
        """Is the budget spent? Says so the first time."""
        reached = self.budget.reached(self.spent)
        if reached and not self._explained:
            self._explained = True
            log.warning("the teacher's budget is spent (%s): going on without it", reached)
        return bool(reached)

    def affordable(self, wanted: int) -> int:
        """How many of ``wanted`` calls, those under way included, may be made beyond ``spent``."""
        if self.over():
            return 0
        left = self.budget.calls
        return wanted if left is None else min(wanted, left - self.spent.calls)

    @property
    def metrics(self) -> dict[str, float | bool | None]:
        """For metrics.json: all that was spent so far, and whether that was all."""
        return {
            **{f"teacher_{name}": value for name, value in asdict(self.spent).items()},
            "teacher_cost": self.budget.prices.cost(self.spent),
            "budget_spent": bool(self.budget.reached(self.spent)),
        }


class Budgeted:
    """``policy`` for as long as ``account`` lasts. ``count`` gives the tokens of a text, for a
    teacher that reports none."""

    def __init__(self, policy: Policy, account: Account, count: Callable[[str], int]) -> None:
        self.policy, self.account, self._count = policy, account, count
        self.name, self.needs_sandbox = policy.name, policy.needs_sandbox
        self.needs_answer = needs_answer(policy)
        self._lock = threading.Lock()  # guards the account and the number of calls under way
        self._under_way = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Budgeted, (self.policy, self.account, self._count)

    def around(self, policy: Policy, account: Any = None) -> Budgeted:
        """The same for another policy, by another account if one is given."""
        return Budgeted(policy, account or self.account, self._count)

    def act(self, states: Sequence[State]) -> list[Reply]:
        asked = states[: self._reserve(len(states))]
        replies: Sequence[Reply] = []
        try:
            replies = self.policy.act(asked) if asked else []
        finally:
            self._pay(asked, replies)
        return [*replies, *[Reply(error=SPENT)] * (len(states) - len(asked))]

    def submit(self, state: State) -> Future[Reply]:
        if not self._reserve(1):
            refused: Future[Reply] = Future()
            refused.set_result(Reply(error=SPENT))
            return refused
        try:
            asked = self._submitting.submit(state)
        except BaseException:  # nobody was asked
            self._pay([state], [])
            raise
        asked.add_done_callback(lambda there: self._pay([state], _replies_of(there)))
        return then(asked, lambda reply: reply)

    def ended(self, key: Key) -> None:
        release(self.policy, key)

    @cached_property
    def _submitting(self) -> Submitting:
        return submitting(self.policy)

    def _reserve(self, wanted: int) -> int:
        with self._lock:
            granted = self.account.affordable(self._under_way + wanted) - self._under_way
            granted = max(0, granted)
            self._under_way += granted
        return granted

    def _pay(self, asked: Sequence[State], replies: Sequence[Reply]) -> None:
        """For calls that have ended. One that raised an error is not charged."""
        with self._lock:
            self._under_way -= len(asked)
            if replies:
                self.account.add(self._spent(asked, replies))
                self.account.over()

    def _spent(self, states: Sequence[State], replies: Sequence[Reply]) -> Spent:
        return Spent(
            calls=len(replies),
            prompt_tokens=sum(
                self._prompt(state, reply) for state, reply in zip(states, replies, strict=True)
            ),
            generated_tokens=sum(map(self._generated, replies)),
        )

    def _prompt(self, state: State, reply: Reply) -> int:
        """As reported, also for an answer that could not be read; else roughly."""
        if reply.prompt_tokens is not None:
            return reply.prompt_tokens
        return 0 if self.needs_sandbox or reply.error else _rough(state)

    def _generated(self, reply: Reply) -> int:
        if reply.generated_tokens is not None:
            return reply.generated_tokens
        if reply.token_ids:
            return len(reply.token_ids)
        if reply.action is not None:
            texts = [reply.action.reasoning, *reply.action.arguments.values()]
            return self._count("\n".join(texts))
        return self._count(reply.text) if reply.text else 0


def _replies_of(asked: Future[Reply]) -> list[Reply]:
    try:
        return [asked.result()]
    except BaseException:  # it is raised where the reply is waited for
        return []


def _rough(state: State) -> int:
    return sum(len(message["content"]) for message in state.messages) // 4
