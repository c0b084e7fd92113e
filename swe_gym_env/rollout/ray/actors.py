"""What the episodes of a Ray cluster share with the process that was started, the driver: models
and the teacher's account. For each there is a small actor beside the driver.

Models stay in the driver, where training has them too, and where servers that a run starts are
watched: episodes elsewhere send their states to an inference actor and wait for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy, Reply, State
from swe_gym_env.policies.budget import Account, Budget, Budgeted, Spent
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.policies.submit import submitting


def _beside_the_driver(kind: type, name: str | None, *arguments: Any) -> Any:
    """An actor that waits more than it works, and goes only where the driver goes too."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(kind)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": 100_000}
    return actor.options(name=name, **options).remote(*arguments)


class Models:
    """Answers, while this context lasts, for the models in process that episodes elsewhere ask."""

    def __init__(self) -> None:
        self._name = f"inference {uuid.uuid4()}"
        self._actor: Any = None

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def shared(self, policy: Policy) -> Policy:
        """``policy`` as an episode elsewhere can have it: what it loads late stays here."""
        if isinstance(policy, LazyPolicy):
            if self._actor is None:
                self._actor = _beside_the_driver(_InferenceActor, self._name)
            model = uuid.uuid4().hex
            threading.Thread(target=self._answer, args=(model, policy), daemon=True).start()
            return RemotePolicy(policy.name, self._name, model)
        around = getattr(policy, "around", None)
        return policy if around is None else around(self.shared(policy.policy))  # type: ignore[attr-defined]

    def _answer(self, model: str, policy: Policy) -> None:
        """Each state is given to the model when it comes, and its answer back when it is there."""
        submit = submitting(policy).submit
        while True:
            try:
                numbers, states = ray.get(self._actor.waiting.remote(model))
            except RayError:  # the actor is gone
                return
            for number, state in zip(numbers, states, strict=True):
                try:
                    asked = submit(state)
                except Exception as error:
                    asked = Future()
                    asked.set_exception(error)
                asked.add_done_callback(partial(self._answered, number))

    def _answered(self, number: int, asked: Future[Reply]) -> None:
        error = asked.exception()
        answer = asked.result() if error is None else error
        self._actor.answer.remote({number: answer})


class _InferenceActor:
    """Where states wait for a model's driver."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[int, State]]] = defaultdict(list)
        self._came: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._answers: dict[int, asyncio.Future[Reply]] = {}
        self._count = 0

    async def ask(self, model: str, states: Sequence[State]) -> list[Reply]:
        mine = []
        for state in states:
            self._count += 1
            self._answers[self._count] = asyncio.get_running_loop().create_future()
            self._waiting[model].append((self._count, state))
            mine.append(self._count)
        self._came[model].set()
        try:
            return [await self._answers[number] for number in mine]
        finally:
            for number in mine:
                del self._answers[number]

    async def waiting(self, model: str) -> tuple[list[int], list[State]]:
        """As soon as there is one, all."""
        await self._came[model].wait()
        self._came[model].clear()
        asked = self._waiting.pop(model)
        return [number for number, _ in asked], [state for _, state in asked]

    async def answer(self, answers: dict[int, Reply | BaseException]) -> None:
        for number, answer in answers.items():
            future = self._answers.get(number)
            if future is None:  # nobody waits any more
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class RemotePolicy:
    """A model of the driver, asked through the inference actor."""

    needs_sandbox = False

    def __init__(self, name: str, actor: str, model: str) -> None:
        self.name, self._actor, self._model = name, actor, model

    def act(self, states: Sequence[State]) -> list[Reply]:
        try:
            return ray.get(ray.get_actor(self._actor).ask.remote(self._model, list(states)))
        except RayTaskError as error:
            if isinstance(error.cause, SetupError):
                raise error.cause from None
            return [Reply(error=f"{type(error.cause).__name__}: {error.cause}")] * len(states)
        except (RayActorError, ValueError) as error:  # gone, and its name with it
            return [Reply(error=f"nobody answers for the model: {error}")] * len(states)


class BudgetServer:
    """The driver's end of the teacher's account, which stays the record of what was spent. An actor
    beside it says who may still ask."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._actor = _beside_the_driver(_BudgetActor, None, account.budget, account.spent)
        self.budget_client = BudgetClient(self._actor)
        self.bill = self._actor.bill.remote()

    @classmethod
    @contextlib.contextmanager
    def of(cls, teacher: Policy | None) -> Iterator[BudgetServer | None]:
        """None where nobody counts what ``teacher`` costs."""
        if not isinstance(teacher, Budgeted):
            yield None
            return
        budget_server = cls(teacher.account)
        try:
            yield budget_server
        finally:
            budget_server._close()

    def settle(self) -> None:
        """Record what ``bill`` says was paid, if it is ready; then there is a next one."""
        if not ray.wait([self.bill], timeout=0)[0]:
            return
        self._record(ray.get(self.bill))
        self.bill = self._actor.bill.remote()

    def _close(self) -> None:
        rest = ray.get(self._actor.close.remote())
        self._record(ray.get(self.bill) + rest)
        ray.kill(self._actor)

    def _record(self, bills: Sequence[Spent]) -> None:
        for spent in bills:
            self._account.add(spent)
        self._account.over()


class BudgetClient:
    """The teacher's account as an episode elsewhere sees it."""

    def __init__(self, actor: Any, episode: str = "") -> None:
        self._actor, self._episode = actor, episode

    def of(self, episode: str) -> BudgetClient:
        return BudgetClient(self._actor, episode)

    def affordable(self, wanted: int) -> int:
        return ray.get(self._actor.affordable.remote(self._episode, wanted))

    def add(self, spent: Spent) -> None:
        ray.get(self._actor.add.remote(self._episode, spent))

    def over(self) -> bool:
        return False  # the driver looks, and says so


class _BudgetActor:
    """Reserves each call before it is made, so that all machines together keep the budget. What an
    episode had reserved when its machine was lost is free again once it asks again."""

    def __init__(self, budget: Budget, spent: Spent) -> None:
        self._budget, self._spent = budget, spent
        self._reserved: dict[str, int] = {}
        self._bills: list[Spent] = []
        self._news = asyncio.Event()

    async def affordable(self, episode: str, wanted: int) -> int:
        """``wanted`` counts all calls of the episode that are not paid yet."""
        self._reserved.pop(episode, None)
        if self._budget.reached(self._spent):
            return 0
        if self._budget.calls is not None:
            left = self._budget.calls - self._spent.calls - sum(self._reserved.values())
            wanted = max(0, min(wanted, left))
        self._reserved[episode] = wanted
        return wanted

    async def add(self, episode: str, spent: Spent) -> None:
        if episode in self._reserved:
            self._reserved[episode] = max(0, self._reserved[episode] - spent.calls)
        self._spent += spent
        self._bills.append(spent)
        self._news.set()

    async def bill(self) -> list[Spent]:
        """As soon as something was paid, or all is over."""
        await self._news.wait()
        return self._collect()

    async def close(self) -> list[Spent]:
        self._news.set()
        return self._collect()

    def _collect(self) -> list[Spent]:
        bills, self._bills = self._bills, []
        self._news.clear()
        return bills
