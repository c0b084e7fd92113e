"""A served student on a real Ray cluster: asked from where the episode is, kept by the driver."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from algorithms.engine.rendering import Renderer
from algorithms.serving.fleet import Fleet
from algorithms.serving.vllm_policy import VLLMPolicy
from swe_gym_env.policies.base import Key, keyed_rng
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.ray.actors import Models
from swe_gym_env.types import Turn
from tests.algorithms.conftest import tiny_tokenizer
from tests.algorithms.serving.test_fleet import below, made, weights
from tests.rollout.test_ray import Machines, machines

pytestmark = [pytest.mark.sandbox, pytest.mark.e2e]
_ = made, machines  # fixtures


class Driver:
    """The driver's end of a served student, and all that passes through it."""

    def __init__(self, fleet: Fleet, version: Any) -> None:
        self.fleet, self.version = fleet, version
        renderer = Renderer(tiny_tokenizer())
        self.policy = VLLMPolicy(
            fleet, version, renderer, [renderer.end_id], max_new_tokens=9, max_context=100_000
        )
        self.student = LazyPolicy(self.load, client=self.policy.client)
        self.asked: list[tuple[Key, Any]] = []
        self.messages: list[bytes] = []
        self.places: dict[tuple[object, ...], str] = {}

    def load(self) -> VLLMPolicy:
        self.fleet.publish(self.version)
        return self.policy

    def lease(self, policy: LazyPolicy, question: tuple[Key, Any]) -> Future[Any]:
        self.asked.append(question)
        self.messages.append(pickle.dumps(question))
        given = policy.lease(*question)

        def answered(there: Future[Any]) -> None:
            self.places[question[0][:4]] = there.result().url
            self.messages.append(pickle.dumps(there.result()))

        given.add_done_callback(answered)
        return given


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a driver whose messages are kept. A turn that it is asked for is an error."""
    drivers: list[Driver] = []

    def make(fleet: Fleet, version: Any) -> Driver:
        drivers.append(Driver(fleet, version))
        return drivers[-1]

    def lease(models: Models, policy: LazyPolicy, question: tuple[Key, Any]) -> Future[Any]:
        given = drivers[-1].lease(policy, question)
        models._leased.append((policy, question[0]))
        return given

    def never(*_: Any) -> Any:
        raise AssertionError("a turn passed through the driver")

    monkeypatch.setattr(Models, "_lease", lease)
    monkeypatch.setattr(VLLMPolicy, "submit", never)
    monkeypatch.setattr(Fleet, "request", never)
    yield make


def right(turns: tuple[Turn, ...], version: Any) -> bool:
    return all(
        (turn.token_ids, turn.logprobs, turn.policy_version)
        == ((7, 100), (-0.5, -0.5), str(version.folder))
        for turn in turns
    )


def at_rest(fleet: Fleet) -> bool:
    held = [(one._under_way, one._holding, one._waiting) for one in fleet._admission.values()]
    return all(one == (0, set(), set()) for one in held) and not any(fleet._placement.load)


def test_no_turn_passes_through_the_driver(
    machines: Machines, made: Any, watched: Any, tmp_path: Any
) -> None:
    base = weights(tmp_path / "base", 7)
    fleet = made(2)
    driver = watched(fleet, base)
    played = machines.play(4, student=driver.student)
    turns = sum(len(episode.turns) for episode, _ in played)
    assert len(played) == 4 and turns > 8
    assert all(right(episode.turns, base) for episode, _ in played)
    assert all(episode.metadata["attempts"] == 1 for episode, _ in played)
    assert len(driver.asked) == 4 and not any(lost for _, lost in driver.asked), "one per episode"
    assert max(map(len, driver.messages)) < 500, "bytes; a turn's history has thousands"
    assert at_rest(fleet)

    expected: dict[int, str] = {}  # which server gets which turn, by the seed in its request
    for episode, _ in played:
        (task,) = [task for task in machines.tasks if task.instance_id == episode.instance_id]
        request = Request(task, seed=7, round=2)
        for turn in range(len(episode.turns)):
            key = request.key(turn, "student")
            expected[int(keyed_rng(key).integers(2**31))] = driver.places[key[:4]]
    asked = [
        (body["seed"], server.url)
        for server in fleet.servers
        for body in httpx.get(f"{server.url}/asked").json()
    ]
    assert sorted(asked) == sorted(expected.items()), "each turn once, at the episode's own server"


def test_episodes_wait_for_room_at_their_server(
    machines: Machines, made: Any, watched: Any, tmp_path: Any
) -> None:
    fleet = made(FAKE_SECONDS="0.05")
    (admission,) = fleet._admission.values()
    admission.limit = 1
    driver = watched(fleet, weights(tmp_path / "base", 7))
    most = 0
    hold = admission.hold

    def counted(episode: Any) -> None:
        nonlocal most
        hold(episode)
        most = max(most, len(admission._holding))

    admission.hold = counted  # type: ignore[method-assign]
    played = machines.play(3, student=driver.student)
    assert len(played) == 3 and all(right(e.turns, driver.version) for e, _ in played)
    assert most == 1 and at_rest(fleet)


def test_a_server_that_dies_costs_no_episode(
    machines: Machines, made: Any, watched: Any, tmp_path: Any
) -> None:
    fleet = made(FAKE_SECONDS="0.5")
    driver = watched(fleet, weights(tmp_path / "base", 7))
    lease = driver.lease

    def then_kill(policy: LazyPolicy, question: tuple[Key, Any]) -> Future[Any]:
        first = not driver.asked
        given = lease(policy, question)
        if first:
            (server,) = fleet.servers
            given.add_done_callback(
                lambda _: threading.Timer(
                    1.0, lambda: os.kill(below(server.pid or 0)[1], signal.SIGKILL)
                ).start()
            )
        return given

    driver.lease = then_kill
    played = machines.play(2, student=driver.student)
    assert fleet.servers[0].starts == 2
    assert len(played) == 2 and all(right(e.turns, driver.version) for e, _ in played)
    assert all(episode.metadata["attempts"] == 1 for episode, _ in played)
    assert any(lost for _, lost in driver.asked) and at_rest(fleet)
