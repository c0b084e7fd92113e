"""A student's servers, asked as from another machine; their model is only a number."""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from algorithms.serving.fleet import Fleet, Place
from algorithms.serving.remote import ServedClient
from algorithms.serving.server import Server
from algorithms.serving.vllm_policy import VLLMPolicy
from algorithms.serving.weights import Version
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL, Key
from swe_gym_env.rollout.ray import actors
from tests.algorithms.conftest import make_state
from tests.algorithms.serving.test_fleet import below, made, policy, weights, weights_of

pytestmark = pytest.mark.e2e
_ = made, policy  # fixtures


@dataclass
class Lease:
    """Given by a fleet in the same process."""

    fleet: Fleet
    version: Version
    key: Key
    renewals: int = 0

    def __post_init__(self) -> None:
        self.place = self.fleet.lease(self.version, self.key)

    def renew(self) -> None:
        self.renewals += 1
        self.place = self.fleet.lease(self.version, self.key, self.place)


def elsewhere(policy: VLLMPolicy) -> ServedClient:
    """What arrives on another machine."""
    return pickle.loads(pickle.dumps(policy.client()))


def test_the_replies_are_those_of_the_policy(made, policy, tmp_path) -> None:
    base = weights(tmp_path / "base", 7)
    adapter = weights(tmp_path / "adapter", 8, base.folder)
    fleet = made(FAKE_LIMIT="60")
    for version, number in ((base, 7), (adapter, 8)):
        fleet.publish(version)
        asked = policy(fleet, version, temperature=0.5, top_p=0.8, max_new_tokens=9)
        client = elsewhere(asked)
        lease = Lease(fleet, version, make_state(0).key)
        (here,) = asked.act([make_state(0)])
        there = client.reply(make_state(0), lease)
        assert weights_of(there) == number and there.text == here.text
        assert (there.token_ids, there.logprobs) == (here.token_ids, here.logprobs)
        assert there.policy_version == here.policy_version == str(version.folder)
        first, second = httpx.get(f"{lease.place.url}/asked").json()[-2:]
        assert first == second, "to the letter: the same prompt, seed and settings"
        long = make_state(0, (), "x" * 60)
        assert client.reply(long, lease).error.startswith(CONTEXT_FULL)
        fleet.ended(lease.key)
        assert lease.renewals == 0


def test_other_weights_give_no_turn_and_are_put_right(made, policy, tmp_path) -> None:
    base, other = weights(tmp_path / "base", 7), weights(tmp_path / "other", 8)
    fleet = made()
    fleet.publish(base)
    lease = Lease(fleet, base, make_state(0).key)
    client = elsewhere(policy(fleet, base))
    call = {"method": "reload_weights", "kwargs": {"weights_path": str(other.folder)}}
    httpx.post(f"{lease.place.url}/collective_rpc", json=call)
    info = {"new_version": other.digest}
    httpx.post(f"{lease.place.url}/update_weight_version", json=info)
    assert "had other weights" in client.reply(make_state(0), lease).error
    assert weights_of(client.reply(make_state(0), lease)) == 7
    fleet.publish(other)
    assert "is no longer served" in client.reply(make_state(0), lease).error
    assert weights_of(elsewhere(policy(fleet, other)).reply(make_state(0), lease)) == 8
    with pytest.raises(PolicyError, match="no longer served"):
        fleet.lease(base, make_state(1).key)


def test_a_server_that_died_is_started_again_for_the_lease(made, policy, tmp_path) -> None:
    base = weights(tmp_path / "base", 7)
    adapter = weights(tmp_path / "adapter", 8, base.folder)
    fleet = made()
    fleet.publish(adapter)
    lease = Lease(fleet, adapter, make_state(0).key)
    client = elsewhere(policy(fleet, adapter))
    before = lease.place
    os.kill(below(fleet.servers[0].pid)[1], signal.SIGKILL)
    assert weights_of(client.reply(make_state(0), lease)) == 8
    assert lease.place != before and lease.place.starts == 2
    assert lease.renewals >= 1


def test_servers_that_only_their_machine_reaches_are_asked_through_it(
    made, policy, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = weights(tmp_path / "base", 7)
    urls = {"http://127.0.0.1:9": True, "http://localhost:9": True, "http://10.0.0.5:9": False}
    for url, loopback in urls.items():
        assert policy(Fleet([Server(url=url)]), base).client().loopback is loopback
    assert policy(made(), base).client().loopback

    class Client:
        loopback = True

        def reply(self, state: Any, lease: Any) -> Any:
            return f"asked at {lease.place.url}"

    class Through:
        name = actor = "student"

        def act(self, states: Any) -> Any:
            return ["asked through the driver"] * len(states)

    place = Place("http://127.0.0.1:9", 1)
    monkeypatch.setattr(actors, "_asked", lambda actor, name, questions: [place])
    monkeypatch.setattr(actors, "node_ip", lambda: "10.0.0.1")
    through: Any = Through()
    for home, found in (
        ("10.0.0.1", "asked at http://127.0.0.1:9"),
        ("10.0.0.2", "asked through the driver"),
    ):
        asked = actors.LeasedPolicy(through, "leases", Client(), home)
        assert asked.act([make_state(0)]) == [found]
