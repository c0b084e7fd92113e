"""What the episodes of a Ray cluster share with the process that was started, the driver: models
and the teacher's account. For each there is a small actor beside the driver.

Models in process stay in the driver, where training has them too: episodes elsewhere send their
states to an inference actor and wait for the answer. A served model is asked from where the episode
is. The driver watches its servers, so an episode asks the driver once where it may ask, and again
only if a server fails: no text of a turn passes through the driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import get_node_ip_address as node_ip
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies.base import Key, Policy, Reply, State
from swe_gym_env.policies.budget import Account, Budget, Budgeted, Spent
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.policies.submit import release


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
        self._leased: list[tuple[Policy, Key]] = []

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
        for (
            policy,
            key,
        ) in self._leased:  # also where an episode was lost before its lease was there
            release(policy, key)

    def shared(self, policy: Policy) -> Policy:
        """``policy`` as an episode elsewhere can have it: what it loads late stays here."""
        if isinstance(policy, LazyPolicy):
            if self._actor is None:
                self._actor = _beside_the_driver(_InferenceActor, self._name)
            through = RemotePolicy(policy.name, self._name, self._answered_by(policy.submit))
            if policy.client is None:
                return through
            leases = self._answered_by(partial(self._lease, policy))
            return LeasedPolicy(through, leases, policy.client(), node_ip())
        around = getattr(policy, "around", None)
        return policy if around is None else around(self.shared(policy.policy))  # type: ignore[attr-defined]

    def _lease(self, policy: LazyPolicy, question: tuple[Key, Any]) -> Future[Any]:
        self._leased.append((policy, question[0]))
        return policy.lease(*question)

    def _answered_by(self, answer: Callable[[Any], Future[Any]]) -> str:
        """A name for ``answer``, under which the actor takes questions to it."""
        model = uuid.uuid4().hex
        threading.Thread(target=self._answer, args=(model, answer), daemon=True).start()
        return model

    def _answer(self, model: str, answer: Callable[[Any], Future[Any]]) -> None:
        """Each question is answered when it comes; the answer goes back when it is there."""
        while True:
            try:
                numbers, questions = ray.get(self._actor.waiting.remote(model))
            except RayError:  # the actor is gone
                return
            for number, question in zip(numbers, questions, strict=True):
                try:
                    asked = answer(question)
                except Exception as error:
                    asked = Future()
                    asked.set_exception(error)
                asked.add_done_callback(partial(self._answered, number))

    def _answered(self, number: int, asked: Future[Any]) -> None:
        error = asked.exception()
        answer = asked.result() if error is None else error
        self._actor.answer.remote({number: answer})


class _InferenceActor:
    """Where questions wait for the driver: states for a model, or for a lease."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        self._came: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0

    async def ask(self, model: str, questions: Sequence[Any]) -> list[Any]:
        mine = []
        for question in questions:
            self._count += 1
            self._answers[self._count] = asyncio.get_running_loop().create_future()
            self._waiting[model].append((self._count, question))
            mine.append(self._count)
        self._came[model].set()
        try:
            return [await self._answers[number] for number in mine]
        finally:
            for number in mine:
                del self._answers[number]

    async def waiting(self, model: str) -> tuple[list[int], list[Any]]:
        """As soon as there is one, all."""
        await self._came[model].wait()
        self._came[model].clear()
        asked = self._waiting.pop(model)
        return [number for number, _ in asked], [question for _, question in asked]

    async def answer(self, answers: dict[int, Any]) -> None:
        for number, answer in answers.items():
            future = self._answers.get(number)
            if future is None:  # nobody waits any more
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _asked(actor: str, model: str, questions: Sequence[Any]) -> list[Any]:
    """What the driver answers. PolicyError if it does not, SetupError if the user must act."""
    try:
        return ray.get(ray.get_actor(actor).ask.remote(model, list(questions)))
    except RayTaskError as error:
        if isinstance(error.cause, SetupError):
            raise error.cause from None
        raise PolicyError(f"{type(error.cause).__name__}: {error.cause}") from None
    except (RayActorError, ValueError) as error:  # gone, and its name with it
        raise PolicyError(f"nobody answers for the model: {error}") from None


class RemotePolicy:
    """A model of the driver, asked through the inference actor."""

    needs_sandbox = False

    def __init__(self, name: str, actor: str, model: str) -> None:
        self.name, self.actor, self._model = name, actor, model

    def act(self, states: Sequence[State]) -> list[Reply]:
        try:
            return _asked(self.actor, self._model, states)
        except PolicyError as error:
            return [Reply(error=str(error))] * len(states)


class _Lease:
    """Where an episode may ask a served model, from its first turn to its end."""

    def __init__(self, key: Key, ask: Callable[[Key, Any], Any]) -> None:
        self._key, self._ask = key, ask
        self.place = ask(key, None)

    def renew(self) -> None:
        """Another place, after this one failed. PolicyError, SetupError."""
        self.place = self._ask(self._key, self.place)


class LeasedPolicy:
    """A served model, asked from where the episode is.

    Args:
        through: The same model, asked through the driver: from machines that cannot reach servers
            that listen on the driver's machine only.
        leases: The name under which the driver gives leases.
        client: Asks the servers (``LazyPolicy.client``).
        home: Address of the driver's machine.
    """

    needs_sandbox = False

    def __init__(self, through: RemotePolicy, leases: str, client: Any, home: str) -> None:
        self.name = through.name
        self._through, self._leases, self._client, self._home = through, leases, client, home
        self._held: dict[tuple[object, ...], _Lease] = {}

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One after another: a lease is for one request at a time."""
        if self._client.loopback and node_ip() != self._home:
            return self._through.act(states)
        return [self._reply(state) for state in states]

    def ended(self, key: Key) -> None:
        """The driver takes the lease back on its own."""
        self._held.pop(key[:4], None)

    def _reply(self, state: State) -> Reply:
        episode = state.key[:4]
        try:
            if episode not in self._held:
                self._held[episode] = _Lease(state.key, self._ask)
            return self._client.reply(state, self._held[episode])
        except PolicyError as error:
            return Reply(error=str(error))

    def _ask(self, key: Key, lost: Any) -> Any:
        return _asked(self._through.actor, self._leases, [(key, lost)])[0]


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
