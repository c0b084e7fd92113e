"""Episodes on a real Ray cluster, its machines being processes here: the same, all, and once."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy, Reply, State
from swe_gym_env.policies.budget import SPENT, Account, Budget, Budgeted, Spent
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Progress, Request, rollout
from swe_gym_env.rollout.facade import Rollout
from swe_gym_env.rollout.mixers import PerTurnBeta, StudentOnly
from swe_gym_env.rollout.ray import driver
from swe_gym_env.rollout.ray.actors import _InferenceActor
from swe_gym_env.types import Annotation, Episode, TaskInstance, Turn
from tests.rollout.test_driver import wander
from tests.support.ray_nodes import patiently
from tests.support.toy_tasks import FINISH, FIX, GOLD, LOOK, copies, toy_task

pytestmark = [pytest.mark.sandbox, pytest.mark.e2e]

Played = list[tuple[Episode, list[Annotation]]]
STORE = 78_643_200  # bytes, the least that Ray takes
QUICK = {"health_check_period_ms": 500, "health_check_timeout_ms": 500}  # sees a dead machine soon


@dataclass
class Machines:
    """A cluster of one head without room and machines for one or two episodes."""

    cluster: Cluster
    home: Path
    tasks: list[TaskInstance]

    def add(self) -> Any:
        return patiently(lambda: self.cluster.add_node(num_cpus=1, object_store_memory=STORE))

    def settings(self, **values: Any) -> driver.Cluster:
        given = {"address": self.cluster.address, "cpus": 0.5, "memory_gb": 0.1, "retries": 3}
        return driver.Cluster(**{**given, **values})

    def play(self, count: int = 3, *, how: Any = None, **options: Any) -> Played:
        """Of ``count`` episodes, all that were delivered, in order of their names."""
        played: Played = []
        settings = {"make_env": make_env, "mixer": StudentOnly(), "annotate": False, **options}
        settings.setdefault("on_episode", lambda *one: played.append(one))
        (how or partial(driver.rollout, cluster=self.settings()))(
            [Request(task, seed=7, round=2) for task in self.tasks[:count]], **settings
        )
        return sorted(played, key=lambda pair: pair[0].episode_id)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head: dict[str, Any] = {
            "num_cpus": 0,
            "object_store_memory": STORE,
            "include_dashboard": False,
        }
        head["_system_config"] = QUICK
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        task = replace(toy_task(home), gold_patch=GOLD)
        machines = Machines(cluster, home, copies(task, 8))
        machines.add()
        yield machines
        ray.shutdown()
        cluster.shutdown()


def make_env(task: TaskInstance) -> SWEEnv:
    return SWEEnv([task], sandbox="process", grade="deferred", max_turns=6)


def timeless(played: Played) -> list[Any]:
    """All that must not depend on how fast anything was, as text."""
    return [
        re.sub(
            r"in \d+\.\d+s",
            "in SECONDS",
            repr(
                (
                    replace(
                        episode,
                        turns=tuple(map(_timeless_turn, episode.turns)),
                        outcome=replace(episode.outcome, seconds=0),
                        seconds=0,
                        metadata={k: v for k, v in episode.metadata.items() if k != "costs"},
                    ),
                    labels,
                )
            ),
        )
        for episode, labels in played
    ]


def _timeless_turn(turn: Turn) -> Turn:
    return replace(turn, act_seconds=0, step_seconds=0)


@dataclass
class Slow:
    """Says a fixed script, takes its time for each turn, and leaves a note of each episode's
    beginning."""

    notes: Path
    seconds: float = 0.3
    script: Sequence[str] = (LOOK, FIX, FINISH)
    name: str = "student"
    needs_sandbox: bool = False
    texts: list[str] = field(default_factory=list)

    def act(self, states: Sequence[State]) -> list[Reply]:
        for state in states:
            if not state.turns:
                here = ray.get_runtime_context().get_node_id()
                note(self.notes, f"{state.task.instance_id}--{here}")
        time.sleep(self.seconds)
        return [Reply(text=self.script[len(state.turns)]) for state in states]


def note(folder: Path, text: str) -> None:
    (folder / f"{text}--{os.getpid()}-{time.monotonic_ns()}").touch()


def in_play(folder: Path, node: str) -> bool:
    """Has an episode begun on this machine, and lately? Waits for one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob(f"*--{node}--*"):
            if time.time() - path.stat().st_mtime < 2:
                return True
        time.sleep(0.1)
    return False


def noted(folder: Path) -> Counter[str]:
    return Counter(path.name.split("--")[0] for path in folder.iterdir())


def test_many_processes_give_the_episodes_of_one(machines: Machines) -> None:
    options = {
        "student": ScriptedPolicy(wander, "student"),
        "teacher": ExpertPolicy(),
        "mixer": PerTurnBeta(0.5),
        "annotate": True,
    }
    seen: list[Progress] = []
    spread = machines.play(**options, progress=seen.append)
    alone = machines.play(how=rollout, **options)
    assert len(spread) == 3 and any(labels for _, labels in spread)
    assert timeless(spread) == timeless(alone)
    last = seen[-1]
    assert (last.done, last.running, last.total) == (3, 0, 3)
    assert last.turns == sum(len(episode.turns) for episode, _ in spread)


@pytest.mark.timeout(900)
def test_machines_go_and_come_and_no_episode_is_lost_or_doubled(
    machines: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    doomed = machines.add()
    caplog.set_level(logging.INFO, "swe_gym_env")
    ids: list[str] = []
    killed = False

    def on_episode(episode: Episode, _: list[Annotation]) -> None:
        nonlocal killed
        ids.append(episode.episode_id)
        assert episode.outcome.resolved
        if not killed and (killed := in_play(tmp_path, doomed.node_id)):
            machines.cluster.remove_node(doomed, allow_graceful=False)
            machines.add()

    machines.play(8, student=Slow(tmp_path, 3.0), on_episode=on_episode)
    assert sorted(ids) == [f"toy-{n}/2/0/7" for n in range(1, 9)], "all, and none twice"
    begun = noted(tmp_path)
    assert sum(begun.values()) > 8 and set(begun) == {f"toy-{n}" for n in range(1, 9)}
    messages = [record.getMessage() for record in caplog.records]
    assert sum("is gone: its episodes are played again" in line for line in messages) == 1
    assert sum("has joined" in line for line in messages) == 1


def test_all_machines_together_keep_the_budget(machines: Machines) -> None:
    recorded: list[Spent] = []
    account = Account(Budget(calls=5), Spent(calls=1), recorded.append)
    teacher = Budgeted(ScriptedPolicy([LOOK, FIX, FINISH], "teacher"), account, len)
    student = ScriptedPolicy([LOOK, FIX, FINISH], "student")
    played = machines.play(4, student=student, teacher=teacher, annotate=True)
    assert account.spent.calls == 5 and sum(spent.calls for spent in recorded) == 4
    assert account.spent.generated_tokens > 0
    labels = [label for _, labels in played for label in labels]
    assert Counter(label.error for label in labels) == {"": 4, SPENT: 8}
    assert all(episode.outcome.resolved for episode, _ in played), "the run went on without it"


def test_a_model_in_process_is_loaded_here_and_once(machines: Machines, tmp_path: Path) -> None:
    loaded: list[Slow] = []

    def load() -> Slow:
        loaded.append(Slow(tmp_path))
        return loaded[0]

    played = machines.play(student=LazyPolicy(load))
    assert [episode.outcome.resolved for episode, _ in played] == [True] * 3
    assert len(loaded) == 1


def test_a_model_is_given_all_states_that_wait_at_once() -> None:
    async def asked_by_two() -> tuple[list[Any], Any]:
        actor: Any = _InferenceActor()
        asking = [asyncio.create_task(actor.ask("m", [state])) for state in ("one", "two")]
        numbers, states = await actor.waiting("m")
        await actor.answer(dict(zip(numbers, [Reply(text="first"), OSError("no")], strict=True)))
        return states, await asyncio.gather(*asking, return_exceptions=True)

    states, ((reply,), error) = asyncio.run(asked_by_two())
    assert states == ["one", "two"]
    assert reply.text == "first" and isinstance(error, OSError)


@dataclass
class Failing:
    """A model that does not answer the first ``times`` it is asked."""

    notes: Path
    times: int
    name: str = "student"
    needs_sandbox: bool = False

    def act(self, states: Sequence[State]) -> list[Reply]:
        note(self.notes, "asked")
        if noted(self.notes)["asked"] <= self.times:
            return [Reply(error="no answer")] * len(states)
        return [Reply(text=FINISH)] * len(states)


def test_a_fault_around_the_agent_is_tried_again_and_then_masked(
    machines: Machines, tmp_path: Path
) -> None:
    ((episode, _),) = machines.play(1, student=Failing(tmp_path, 2))
    assert episode.outcome.status == "empty_patch" and noted(tmp_path)["asked"] == 3
    ((episode, _),) = machines.play(1, student=Failing(tmp_path, 1000))
    assert (episode.outcome.status, episode.outcome.mask) == ("infra_error", True)
    assert "no answer" in episode.outcome.reason and noted(tmp_path)["asked"] == 3 + 4


def test_rollout_plays_on_the_cluster_and_goes_on(machines: Machines, tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": ExpertPolicy(), "label": True, "sandbox": "process"}
    options |= {"max_turns": 6, "backend": "ray", "cluster": machines.settings()}
    for count in (2, 3):
        run = Rollout(ScriptedPolicy([FIX, FINISH]), store=tmp_path, **options)
        episodes = list(run(machines.tasks[:count]))
        assert [episode.outcome.status for episode in episodes] == ["resolved"] * count
        assert all(len(run.labels(episode)) == 2 for episode in episodes)
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 3
    ungraded = Rollout(ScriptedPolicy([FINISH]), grade="never", **options)
    (episode,) = ungraded(machines.tasks[:1])
    assert episode.outcome.reason == "not graded" and episode.metadata["attempts"] == 1


def breaks(_: State) -> str:
    raise SetupError("the license ran out: renew it")


def no_model() -> Policy:
    raise SetupError("there is no model: fetch it")


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"cpus": 7}, {}, r"one episode: cluster.cpus=7, and the most is 1\b"),
        ({"memory_gb": 1e5}, {}, r"cluster.memory_gb=100000, and the most is \d"),
        ({}, {"student": ScriptedPolicy(breaks)}, r"^the license ran out: renew it$"),
        ({}, {"student": LazyPolicy(no_model)}, r"^there is no model: fetch it$"),
    ],
)
def test_what_the_user_must_fix_is_named_at_once(
    machines: Machines, settings: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    how = partial(driver.rollout, cluster=machines.settings(**settings))
    given = {"student": ScriptedPolicy([FINISH]), **options}
    with pytest.raises(SetupError, match=says):
        machines.play(1, how=how, **given)


def test_machine_that_cannot_make_a_sandbox_is_named(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_tried", set())
    task = replace(machines.tasks[0], image="nowhere")
    bare = replace(machines, tasks=[task])
    with pytest.raises(
        SetupError, match=r"cannot play yet:\n  - \S+ \(\w{6}\): no image 'nowhere'"
    ):
        bare.play(1, student=ScriptedPolicy([FINISH]))


def test_a_cluster_that_does_not_answer_is_said(machines: Machines) -> None:
    ray.shutdown()
    how = partial(driver.rollout, cluster=machines.settings(address="127.0.0.1:1"))
    with pytest.raises(SetupError, match=r"cluster.address=127.0.0.1:1: no Ray cluster answers"):
        machines.play(1, how=how, student=ScriptedPolicy([FINISH]))
