"""Episodes on the machines of a Ray cluster: one Ray task for each, played as here.

This is a back end of the same driver (``rollout/driver.py``): it fills slots, plays what was lost
again and writes, so that no episode can be recorded twice. Ray places the tasks. Each plays its one
episode as a thread of this process would (``rollout/playing.py``), and asks a served student or
teacher from where it is, so where it runs changes nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.policies.submit import release
from swe_gym_env.rollout import failures
from swe_gym_env.rollout.backend import Ended, Post
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.driver import Driver, OnEpisode, Progress, Request
from swe_gym_env.rollout.local import LocalBackend
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.playing import LostEpisodeError, Played
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.ray.actors import BudgetClient, BudgetServer, Models
from swe_gym_env.rollout.ray.nodes import Nodes, connect, name
from swe_gym_env.rollout.turns import LabelAt
from swe_gym_env.types import Episode, TaskInstance

log = logging.getLogger(__name__)

STOP_SECONDS = 2.0  # for episodes under way when the run is stopped; sandboxes outlive no worker
# What a worker on another machine must see as this process does
PASSED_ON = ("SWE_GYM_HOME", "HF_HUB_OFFLINE", "HF_HOME", "DOCKER_HOST")

Work = tuple[dict[str, str], bytes]  # environment variables, and the back end's pickled arguments

_tried: set[str] = set()  # machines on which a sandbox has been made by this process


def rollout(
    requests: Sequence[Request],
    *,
    cluster: Cluster,
    make_env: Callable[[TaskInstance], SWEEnv],
    student: Policy,
    teacher: Policy | None = None,
    mixer: Mixer,
    annotate: bool,
    label_at: LabelAt = "turn",
    learned: Callable[[Episode], bool] = lambda _: True,
    on_episode: OnEpisode,
    concurrency: int = 8,
    max_faults: int = 10,
    history: int | None = None,
    fixed_batches: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """The roll-out of ``swe_gym_env/rollout/driver.py`` on the machines of ``cluster``.

    ``make_env`` and the policies must pickle, except a ``LazyPolicy``, which stays in this process
    and answers the states of all machines.

    Raises:
        SetupError: The cluster cannot be reached, no machine has room for one episode, a machine
            cannot make a sandbox, or ``fixed_batches`` is asked for.
    """
    if fixed_batches:
        raise SetupError("fixed batches exist in one process only, not on a Ray cluster")
    if not requests:
        return Progress(total=0)
    connect(cluster.address)
    nodes = Nodes({"CPU": cluster.cpus, "memory": cluster.memory_gb * 2**30})
    with Models() as models, BudgetServer.of(teacher) as budget_server:
        options: dict[str, Any] = {
            "make_env": make_env,
            "student": models.shared(student),
            "teacher": models.shared(teacher) if teacher else None,
            "mixer": mixer,
            "annotate": annotate,
            "label_at": label_at,
            "learned": learned,
            "history": history,
        }
        if budget_server:  # each episode gets a budget client instead
            options["teacher"] = options["teacher"].around(options["teacher"].policy, _NoAccount())
        passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        work = ray.put((passed_on, cloudpickle.dumps((options, max_faults))))
        _try_machines(nodes, work, requests[0].task)
        backend = RayBackend(cluster, work, budget_server, nodes, (student, teacher))
        driver = Driver(backend, CircuitBreaker(max_faults), on_episode, cluster.retries, progress)
        return driver.run(requests, concurrency)


class _NoAccount:
    """Stands where an episode puts its own end of the account."""


class RayBackend:
    """Starts one Ray task for each attempt."""

    def __init__(
        self,
        cluster: Cluster,
        work: ray.ObjectRef,
        budget_server: BudgetServer | None,
        nodes: Nodes,
        policies: tuple[Policy, Policy | None],
    ) -> None:
        self._work, self._budget_server, self._nodes = work, budget_server, nodes
        self._policies = policies
        self._options = {
            "num_cpus": cluster.cpus,
            "memory": int(cluster.memory_gb * 2**30),
            "max_retries": 0,  # the driver's own retries know why an attempt was lost
            "scheduling_strategy": "SPREAD",
        }
        self._under_way: set[ray.ObjectRef] = set()

    def start(self, request: Request, attempt: int, post: Post) -> None:
        budget_client = self._budget_server.budget_client if self._budget_server else None
        # (the name stands in what Ray says of a task)
        play = ray.remote(_play).options(name=request.episode_id, **self._options)
        began = time.monotonic()
        ref = play.remote(self._work, budget_client, request, attempt)
        self._under_way.add(ref)

        def ended(_: object) -> None:
            self._under_way.discard(ref)
            for policy, role in zip(self._policies, ("student", "teacher"), strict=True):
                release(policy, request.key(0, role))  # also if its machine is lost
            result = _result(ref, request, began)
            turns = len(result[0].turns) if isinstance(result, tuple) else 0
            post(Ended(request, attempt, result, began, slot=True, turns=turns))

        ref.future().add_done_callback(ended)

    def upcoming(self, requests: Sequence[Request]) -> None: ...

    def left(self) -> None: ...

    def look(self) -> None:
        self._nodes.look()
        if self._budget_server:
            self._budget_server.settle()

    def hurry(self) -> None: ...

    def close(self) -> None:
        """Leave nothing of ours going on in the cluster, whatever was."""
        going = list(self._under_way)
        for force in (False, True):
            for ref in going:
                ray.cancel(ref, force=force)
            if going:
                _, going = ray.wait(going, num_returns=len(going), timeout=STOP_SECONDS)


def _result(
    ref: ray.ObjectRef, request: Request, began: float
) -> Played | LostEpisodeError | BaseException:
    """What came back from the task, as it would have ended in this process."""
    try:
        played, lost = ray.get(ref)
    except RayTaskError as error:
        return _here(error)
    except TaskCancelledError as error:
        return error
    except RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return LostEpisodeError(
            "ray", reason, began, (failures.unplayed(request, "ray", reason), [])
        )
    if lost is None:
        return played
    cause, message = lost
    return LostEpisodeError(cause, message, began, played)


def _play(
    work: Work, budget_client: BudgetClient | None, request: Request, attempt: int
) -> tuple[Played, tuple[str, str] | None]:
    """In a worker of the cluster: one episode, and cause and message if the attempt was lost."""
    options, max_faults = _unpacked(work)
    if budget_client:
        account = budget_client.of(request.episode_id)
        teacher = options["teacher"]
        options = {**options, "teacher": teacher.around(teacher.policy, account)}
    backend = LocalBackend(
        **options,
        concurrency=1,
        breaker=CircuitBreaker(max_faults),
        fixed_batches=False,
        commands=1,
    )
    try:
        return backend.play(request, attempt), None
    except LostEpisodeError as error:
        return error.played, (error.cause, error.message)
    finally:
        backend.close()


def _unpacked(work: Work) -> tuple[dict[str, Any], int]:
    passed_on, options = work
    os.environ.update(passed_on)
    return _options(options)


@lru_cache(1)
def _options(pickled: bytes) -> tuple[dict[str, Any], int]:
    """Once for each worker process and phase: connections and caches last from one episode to the
    next."""
    return cloudpickle.loads(pickled)


def _try_machines(nodes: Nodes, work: ray.ObjectRef, task: TaskInstance) -> None:
    """Make a sandbox on each that this process has not tried yet. SetupError with all that
    cannot."""
    tries = {}
    for node in nodes.able:
        if node["NodeID"] not in _tried:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = ray.remote(_try).options(num_cpus=0, scheduling_strategy=there)
            tries[remote.remote(work, task)] = node
    wrong = []
    for ref, node in tries.items():
        try:
            ray.get(ref)
            _tried.add(node["NodeID"])
        except RayTaskError as error:
            if not isinstance(error.cause, SetupError):
                raise _here(error) from None
            wrong.append(f"  - {name(node)}: {error.cause}")
        except RayError:  # it has gone since
            continue
    if wrong:
        raise SetupError("these machines of the cluster cannot play yet:\n" + "\n".join(wrong))


def _try(work: Work, task: TaskInstance) -> None:
    env = _unpacked(work)[0]["make_env"](task)
    try:
        env.reset(options={"instance_id": task.instance_id})
    except InfraError as error:  # it may pass; episodes are tried again
        log.warning("%s", error)
    finally:
        env.close()


def _here(error: RayTaskError) -> BaseException:
    """What went wrong in a worker, as if it had been here. Where it is no fault of the user's, the
    worker's own traceback is logged."""
    if not isinstance(error.cause, SetupError):
        log.error("%s", error)
    return error.cause
