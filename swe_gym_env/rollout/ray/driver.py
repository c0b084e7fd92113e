"""Episodes on the machines of a Ray cluster: the same roll-out, one Ray task for each episode.

Ray places the tasks, and runs one again whose machine, process or sandbox was lost. Each plays its
one request as a process alone would, so where it runs changes nothing. Only this process, the
driver, writes: an episode is recorded when its task's answer is here, so none can be recorded
twice.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout import failures
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.driver import OnEpisode, Progress, Request
from swe_gym_env.rollout.driver import rollout as in_this_process
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.ray.actors import BudgetClient, BudgetServer, Models
from swe_gym_env.rollout.ray.nodes import Nodes, connect, name
from swe_gym_env.types import Annotation, Episode, TaskInstance

log = logging.getLogger(__name__)

WAKE_SECONDS = 1.0
STOP_SECONDS = 2.0  # for episodes under way when the run is stopped; sandboxes outlive no worker
# What a worker on another machine must see as this process does
PASSED_ON = ("SWE_GYM_HOME", "HF_HUB_OFFLINE", "HF_HOME", "DOCKER_HOST")


Played = tuple[Episode, list[Annotation]]
Work = tuple[dict[str, str], bytes]  # environment variables, and the roll-out's pickled options

_tried: set[str] = set()  # machines on which a sandbox has been made by this process


class MaskedEpisodeError(InfraError):
    """An infrastructure error ended the episode. ``args``: the reason, and the masked episode with
    its labels, which is delivered after the last retry."""

    def __str__(self) -> str:
        return str(self.args[0])


def rollout(
    requests: Sequence[Request],
    *,
    cluster: Cluster,
    make_env: Callable[[TaskInstance], SWEEnv],
    student: Policy,
    teacher: Policy | None = None,
    mixer: Mixer,
    annotate: bool,
    on_episode: OnEpisode,
    concurrency: int = 8,
    max_faults: int = 10,
    history: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """The roll-out of ``swe_gym_env/rollout/driver.py`` on the machines of ``cluster``.

    ``make_env`` and the policies must pickle, except a ``LazyPolicy``, which stays in this process
    and answers the states of all machines.

    Raises:
        SetupError: The cluster cannot be reached, no machine has room for one episode, or a
            machine cannot make a sandbox.
    """
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
            "history": history,
            "max_faults": max_faults,  # of an engine that is down, which costs no attempt
        }
        if budget_server:
            options["teacher"].account = None  # each episode gets a budget client instead
        passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        work = ray.put((passed_on, cloudpickle.dumps(options)))
        _try_machines(nodes, work, requests[0].task)
        breaker = CircuitBreaker(max_faults)
        driver = _Driver(cluster, work, budget_server, nodes, breaker, on_episode, progress)
        return driver.run(requests, concurrency)


class _Driver:
    def __init__(
        self,
        cluster: Cluster,
        work: ray.ObjectRef,
        budget_server: BudgetServer | None,
        nodes: Nodes,
        breaker: CircuitBreaker,
        on_episode: OnEpisode,
        progress: Callable[[Progress], None],
    ) -> None:
        self.work, self.budget_server, self.nodes, self.breaker = (
            work,
            budget_server,
            nodes,
            breaker,
        )
        self.on_episode, self.progress = on_episode, progress
        self.options = {
            "num_cpus": cluster.cpus,
            "memory": int(cluster.memory_gb * 2**30),
            "max_retries": cluster.retries,
            "retry_exceptions": [MaskedEpisodeError],
            "scheduling_strategy": "SPREAD",
        }
        self.under_way: dict[ray.ObjectRef, tuple[Request, float]] = {}  # and since when

    def run(self, requests: Sequence[Request], concurrency: int) -> Progress:
        waiting = deque(requests)
        self.now = Progress(total=len(requests))
        budget_client = self.budget_server.budget_client if self.budget_server else None
        try:
            while waiting or self.under_way:
                while waiting and len(self.under_way) < concurrency and not self.breaker.pause():
                    request = waiting.popleft()
                    # (the name stands in what Ray says of a task)
                    play = ray.remote(_play).options(name=request.episode_id, **self.options)
                    began = time.monotonic()
                    self.under_way[play.remote(self.work, budget_client, request)] = request, began
                for ref in self._ended():
                    self._deliver(ref, *self.under_way.pop(ref))
                self.nodes.look()
                self.progress(replace(self.now, running=len(self.under_way)))
        finally:
            self._stop()
        return self.now

    def _ended(self) -> list[ray.ObjectRef]:
        """Wakes also for what the teacher was paid, to record it."""
        bill = [self.budget_server.bill] if self.budget_server else []
        if not self.under_way:  # a pause after faults
            time.sleep(WAKE_SECONDS)
            return []
        done, _ = ray.wait([*self.under_way, *bill], timeout=WAKE_SECONDS)
        if self.budget_server and self.budget_server.bill in done:
            self.budget_server.settle()
        return [ref for ref in done if ref in self.under_way]

    def _deliver(self, ref: ray.ObjectRef, request: Request, began: float) -> None:
        try:
            episode, labels = ray.get(ref)
        except RayTaskError as error:
            if not isinstance(error.cause, MaskedEpisodeError):
                raise _here(error) from None
            _, episode, labels = error.cause.args
        except RayError as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            episode, labels = failures.unplayed(request, "ray", reason), []
        if episode.outcome.status == failures.INFRA:
            log.warning("%s: given up: %s", request.episode_id, episode.outcome.reason)
        self.now = self.now.with_episode(episode.outcome, turns=len(episode.turns))
        self.on_episode(episode, labels)
        cause, message = failures.cause_of(episode.outcome)
        if cause:
            self.breaker.add(cause, message, began)
        else:
            self.breaker.success()

    def _stop(self) -> None:
        """Leave nothing of ours going on in the cluster, whatever was."""
        for force in (False, True):
            for ref in self.under_way:
                ray.cancel(ref, force=force)
            if refs := list(self.under_way):
                _, going = ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
                self.under_way = {ref: self.under_way[ref] for ref in going}


def _play(work: Work, budget_client: BudgetClient | None, request: Request) -> Played:
    """In a worker of the cluster: one episode. MaskedEpisodeError where it says nothing of the
    agent."""
    options = _unpacked(work)
    if budget_client:
        options["teacher"].account = budget_client.of(request.episode_id)
    played: list[Played] = []
    in_this_process([request], on_episode=lambda *one: played.append(one), retries=0, **options)
    ((episode, labels),) = played
    if episode.outcome.status == failures.INFRA:
        raise MaskedEpisodeError(episode.outcome.reason, episode, labels)
    return episode, labels


def _unpacked(work: Work) -> dict[str, Any]:
    passed_on, options = work
    os.environ.update(passed_on)
    return _options(options)


@lru_cache(1)
def _options(pickled: bytes) -> dict[str, Any]:
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
    env = _unpacked(work)["make_env"](task)
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
