"""What all episodes of a Ray cluster share, each in an actor: models in process, and the teacher's
account."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from omegaconf import DictConfig
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.ray_nodes import check_room
from swe_gym_env.agents.base import Policy, Reply, State
from swe_gym_env.agents.budget import Account, Budget, Budgeted, Spent
from swe_gym_env.agents.late import LatePolicy
from swe_gym_env.errors import SetupError


class Models:
    """Models in process, each loaded once in the cluster while this context lasts."""

    def __init__(self, cluster: DictConfig, callers: int) -> None:
        self._options = {
            "num_cpus": 0,  # it computes while episodes wait for it
            "num_gpus": cluster.model_gpus,
            "max_concurrency": callers,
            "max_restarts": cluster.retries,
            "max_task_retries": cluster.retries,
        }
        self._actors: list[Any] = []

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def shared(self, policy: Policy) -> Policy:
        """``policy`` as an episode elsewhere can ask it: what it loads late becomes an actor."""
        if isinstance(policy, LatePolicy):
            self._check_gpus()
            name = f"{policy.name} {uuid.uuid4()}"
            actor = ray.remote(Batching).options(name=name, **self._options)
            self._actors.append(actor.remote(cloudpickle.dumps(policy)))
            return Asked(policy.name, name)
        inner = getattr(policy, "policy", None)
        if inner is None:
            return policy
        outer: Any = copy.copy(policy)
        outer.policy = self.shared(inner)
        return outer

    def _check_gpus(self) -> None:
        each = self._options["num_gpus"]
        check_room({"GPU": each}, "a model")
        wanted, there = each * (len(self._actors) + 1), ray.cluster_resources().get("GPU", 0)
        if wanted > there:
            raise SetupError(
                f"the models in process need {wanted:g} GPUs (cluster.model_gpus={each:g} each), "
                f"and the Ray cluster has {there:g}: ask for less, or let servers answer"
            )


class Batching:
    """A policy that many ask at once: who gets its lock asks it for all who wait."""

    def __init__(self, policy: bytes) -> None:
        self._policy: Policy = cloudpickle.loads(policy)
        self._waiting: list[tuple[State, Future[Reply]]] = []
        self._queue, self._model = threading.Lock(), threading.Lock()

    def act(self, states: Sequence[State]) -> list[Reply]:
        mine: list[Future[Reply]] = [Future() for _ in states]
        with self._queue:
            self._waiting += zip(states, mine, strict=True)
        with self._model:
            with self._queue:
                batch, self._waiting = self._waiting, []
            if batch:
                self._answer(batch)
        return [answer.result() for answer in mine]

    def _answer(self, batch: Sequence[tuple[State, Future[Reply]]]) -> None:
        try:
            replies = self._policy.act([state for state, _ in batch])
        except BaseException as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), reply in zip(batch, replies, strict=True):
            answer.set_result(reply)


class Asked:
    """The policy in the actor of that name."""

    needs_box = False

    def __init__(self, name: str, actor: str) -> None:
        self.name, self._actor = name, actor

    def act(self, states: Sequence[State]) -> list[Reply]:
        try:
            return ray.get(ray.get_actor(self._actor).act.remote(list(states)))
        except RayTaskError as error:
            if isinstance(error.cause, SetupError):
                raise error.cause from None
            return [Reply(error=f"{type(error.cause).__name__}: {error.cause}")] * len(states)
        except (RayActorError, ValueError) as error:  # it died, or its name is gone with it
            return [Reply(error=f"the model's process is gone: {error}")] * len(states)


class Till:
    """The driver's end of the teacher's account, which stays the record of what was spent. An actor
    beside it says who may still ask."""

    def __init__(self, account: Account) -> None:
        self._account = account
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        cashier: Any = ray.remote(_Cashier)
        cashier = cashier.options(num_cpus=0, scheduling_strategy=here)
        self._cashier = cashier.remote(account.budget, account.spent)
        self.purse = Purse(self._cashier)
        self.bill = self._cashier.bill.remote()

    @classmethod
    @contextlib.contextmanager
    def of(cls, teacher: Policy | None) -> Iterator[Till | None]:
        """None where nobody counts what ``teacher`` costs."""
        if not isinstance(teacher, Budgeted):
            yield None
            return
        till = cls(teacher.account)
        try:
            yield till
        finally:
            till._close()

    def settle(self) -> None:
        """Record what ``bill``, which is ready, says was paid; then there is a next one."""
        self._record(ray.get(self.bill))
        self.bill = self._cashier.bill.remote()

    def _close(self) -> None:
        rest = ray.get(self._cashier.close.remote())
        self._record(ray.get(self.bill) + rest)
        ray.kill(self._cashier)

    def _record(self, bills: Sequence[Spent]) -> None:
        for spent in bills:
            self._account.add(spent)
        self._account.over()


class Purse:
    """The teacher's account as an episode elsewhere sees it."""

    def __init__(self, cashier: Any, episode: str = "") -> None:
        self._cashier, self._episode = cashier, episode

    def of(self, episode: str) -> Purse:
        return Purse(self._cashier, episode)

    def affordable(self, wanted: int) -> int:
        return ray.get(self._cashier.affordable.remote(self._episode, wanted))

    def add(self, spent: Spent) -> None:
        ray.get(self._cashier.add.remote(self._episode, spent))

    def over(self) -> bool:
        return False  # the driver looks, and says so


class _Cashier:
    """Reserves each call before it is made, so that all machines together keep the budget. What an
    episode had reserved when its machine was lost is free again once it asks again."""

    def __init__(self, budget: Budget, spent: Spent) -> None:
        self._budget, self._spent = budget, spent
        self._reserved: dict[str, int] = {}
        self._bills: list[Spent] = []
        self._news = asyncio.Event()

    async def affordable(self, episode: str, wanted: int) -> int:
        self._reserved.pop(episode, None)
        if self._budget.reached(self._spent):
            return 0
        if self._budget.calls is not None:
            left = self._budget.calls - self._spent.calls - sum(self._reserved.values())
            wanted = max(0, min(wanted, left))
        self._reserved[episode] = wanted
        return wanted

    async def add(self, episode: str, spent: Spent) -> None:
        self._reserved.pop(episode, None)
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
