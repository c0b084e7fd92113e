"""Servers as real processes over real HTTP; their model is only a number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from algorithms.engine.rendering import Renderer
from algorithms.serving.fleet import Fleet
from algorithms.serving.server import Launch, Server
from algorithms.serving.vllm_policy import VLLMPolicy
from algorithms.serving.weights import Version
from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies.base import CONTEXT_FULL, Reply
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_state

FAKE = [sys.executable, str(Path(__file__).with_name("fake_vllm.py"))]
Make = Callable[..., Fleet]


def weights(folder: Path, number: int, base: Path | None = None, tied: bool = False) -> Version:
    folder.mkdir()
    (folder / "number").write_text(str(number))
    (folder / "some.safetensors").write_text(str(number))
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    if base:
        (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(base)})
        )
    return Version.of(folder)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    fleets: list[Fleet] = []

    def make(count: int = 1, **environment: str) -> Fleet:
        servers = [
            Server(launch=Launch(FAKE, [], environment, tmp_path / f"{n}.log", restarts=2))
            for n in range(count)
        ]
        fleets.append(Fleet(servers, pause=0.05, timeout=10.0))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


@pytest.fixture
def policy(tokenizer: Any) -> Callable[..., VLLMPolicy]:
    def make(fleet: Fleet, version: Version, **options: Any) -> VLLMPolicy:
        renderer = Renderer(tokenizer)
        return VLLMPolicy(fleet, version, renderer, [renderer.end_id], **options)

    return make


def weights_of(reply: Reply) -> int:
    assert not reply.error, reply.error
    return reply.token_ids[0]


def below(pid: int) -> list[int]:
    """The process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in below(int(child)))]


def alive(pids: list[int]) -> list[int]:
    """The processes that run; zombies are left out."""
    found = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            found.append(pid)
    return found


def gone(pids: list[int], within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


def test_ids_in_and_out_with_version(made, policy, tmp_path, tokenizer) -> None:
    base = weights(tmp_path / "base", 7)
    fleet = made()
    fleet.publish(base)
    asked = policy(fleet, base, temperature=0.5, top_p=0.8, max_new_tokens=9, max_context=200)
    turn = Turn("seen", "student", "x", token_ids=(33, 100))
    first, again, later = asked.act([make_state(0), make_state(0), make_state(1, (turn,), "now")])
    assert weights_of(first) == 7 and first.text == tokenizer.decode([7])
    assert first.token_ids[-1] == asked.renderer.end_id and first.logprobs == (-0.5, -0.5)
    assert first.policy_version == str(tmp_path / "base") and first.seconds > 0
    bodies = httpx.get(f"{fleet.servers[0].url}/asked").json()
    seeds = sorted(body["seed"] for body in bodies)
    assert len(set(seeds)) == 2, "the seed follows from the state alone"
    long = max(bodies, key=lambda body: len(body["prompt"]))
    assert long["prompt"] == asked.renderer.prompt("You fix bugs.", (turn,), "now")
    assert (long["temperature"], long["top_p"], long["max_tokens"]) == (0.5, 0.8, 9)
    assert long["logprobs"] == 0 and long["stop_token_ids"] == [asked.renderer.end_id]
    assert again.token_ids == first.token_ids and not later.error
    [full] = policy(fleet, base, max_context=20).act([make_state(0)])
    assert full.error.startswith(CONTEXT_FULL)


@pytest.mark.slow
def test_history_beyond_server_limit_is_context_full(made, policy, tmp_path) -> None:
    """The server takes less than serving.max_context says, and refuses in unknown words."""
    base = weights(tmp_path / "base", 7)
    fleet = made(FAKE_LIMIT="60")
    fleet.publish(base)
    asked = policy(fleet, base, max_new_tokens=4, max_context=4000)
    long = make_state(0, (), "word " * 200)
    short, full = asked.act([make_state(0, (), "x"), long])
    assert weights_of(short) == 7 and full.error.startswith(CONTEXT_FULL)
    wrong = policy(fleet, base, max_new_tokens=100, max_context=4000)
    [refused] = wrong.act([make_state(0, (), "x")])
    assert refused.error.startswith("HTTP 400"), "the setting is wrong, not the history"


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "whole"])
def test_old_version_is_not_sampled_after_switch(made, policy, tmp_path, adapters: bool) -> None:
    base = weights(tmp_path / "base", 1)
    below_it = tmp_path / "base" if adapters else None
    one, two = (weights(tmp_path / f"v{n}", n, below_it) for n in (2, 3))
    fleet = made(2, FAKE_SECONDS="0.05")
    fleet.publish(base)
    fleet.publish(one)
    old, new = policy(fleet, one), policy(fleet, two)
    wrong: list[int] = []
    late: list[Reply] = []
    right = 0
    switched, end = threading.Event(), threading.Event()

    def go_on_asking() -> None:
        nonlocal right
        while not end.is_set():
            after = switched.is_set()
            for reply in old.act([make_state(n) for n in range(6)]):
                if reply.error:
                    continue
                right += 1
                wrong.extend([reply.token_ids[0]] * (reply.token_ids[0] != 2))
                late.extend([reply] * after)

    thread = threading.Thread(target=go_on_asking)
    thread.start()
    time.sleep(0.4)
    fleet.publish(two)
    switched.set()
    assert {weights_of(reply) for reply in new.act([make_state(n) for n in range(6)])} == {3}
    time.sleep(0.4)
    end.set()
    thread.join()
    assert right > 6 and not wrong and not late
    [reply] = old.act([make_state(0)])
    assert "no longer served" in reply.error and reply.policy_version == str(tmp_path / "v2")
    for server in fleet.servers:
        names = [row["id"] for row in httpx.get(f"{server.url}/v1/models").json()["data"]]
        assert names == (["student", two.model] if adapters else ["student"])


def test_a_late_check_does_not_bring_the_old_version_back(made, tmp_path, monkeypatch) -> None:
    """A check of the old version that is slower than the publication of the new one."""
    one, two = weights(tmp_path / "v1", 1), weights(tmp_path / "v2", 2)
    fleet = made()
    fleet.publish(one)
    serves = fleet._routes.serves

    def publish_first(server: Server, version: Version) -> bool:
        monkeypatch.setattr(fleet._routes, "serves", serves)
        fleet.publish(two)
        return serves(server, version)

    monkeypatch.setattr(fleet._routes, "serves", publish_first)
    with pytest.raises(PolicyError, match="v1 is no longer served"):
        fleet.check(one, make_state(0).key)
    fleet.check(two, make_state(0).key)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "whole"])
def test_killed_server_restarts_with_its_version(made, policy, tmp_path, adapters: bool) -> None:
    weights(tmp_path / "base", 1)
    fleet = made(FAKE_SECONDS="1")
    (server,) = fleet.servers
    version = weights(tmp_path / "new", 4, tmp_path / "base" if adapters else None)
    fleet.publish(version)
    before = below(server.pid)
    assert len(before) == 3, "the guard, the server, and a process beside it"
    timer = threading.Timer(0.3, os.kill, (before[1], signal.SIGKILL))
    timer.start()
    replies = policy(fleet, version).act([make_state(n) for n in range(3)])
    assert [weights_of(reply) for reply in replies] == [4, 4, 4] and server.starts == 2
    assert gone(before)


@pytest.mark.slow
def test_server_that_keeps_dying_ends_run(made, policy, tmp_path) -> None:
    base = weights(tmp_path / "base", 1)
    fleet = made()
    fleet.publish(base)
    asked = policy(fleet, base)
    with pytest.raises(SetupError, match="died 3 times within an hour"):
        for _ in range(3):
            os.kill(below(fleet.servers[0].pid)[1], signal.SIGKILL)
            assert weights_of(asked.act([make_state(0)])[0]) == 1
    with pytest.raises(SetupError, match=r"did not start[\s\S]*RuntimeError: no memory is left"):
        made(FAKE_DIES="1").publish(base)


@pytest.mark.slow
def test_episode_stays_with_one_server(made, policy, tmp_path) -> None:
    base = weights(tmp_path / "base", 1)
    fleet = made(2)
    fleet.publish(base)
    turns = tuple(Turn(f"seen {n}", "student", "x", token_ids=(33, 100)) for n in range(3))
    states = [make_state(n, turns[:t], f"task {n}") for n in range(8) for t in range(4)]
    assert {weights_of(reply) for reply in policy(fleet, base).act(states)} == {1}
    at = [httpx.get(f"{server.url}/asked").json() for server in fleet.servers]
    assert len(at[0]) == len(at[1]) == 16


@pytest.mark.slow
def test_servers_stop_and_start_again(made, policy, tmp_path) -> None:
    base = weights(tmp_path / "base", 1)
    fleet = made()
    fleet.publish(base)
    pids = below(fleet.servers[0].pid)
    fleet.stop()
    assert gone(pids)
    new = weights(tmp_path / "new", 2, tmp_path / "base")
    fleet.publish(new)
    assert weights_of(policy(fleet, new).act([make_state(0)])[0]) == 2


@pytest.mark.slow
def test_tied_head_needs_restart(made, policy, tmp_path) -> None:
    one, two = (weights(tmp_path / f"w{n}", n, tied=True) for n in (1, 2))
    fleet = made()
    for version, number in ((one, 1), (two, 2), (two, 2)):
        fleet.publish(version)
        assert weights_of(policy(fleet, version).act([make_state(0)])[0]) == number
    assert fleet.servers[0].starts == 2


@pytest.mark.slow
def test_restarted_external_server_is_detected(made, policy, tmp_path) -> None:
    base, new = weights(tmp_path / "base", 1), weights(tmp_path / "new", 2)
    owner = made()
    owner.publish(base)
    url = owner.servers[0].url
    fleet = Fleet([Server(url=url)], pause=0.05)
    fleet.publish(new)
    asked = policy(fleet, new)
    assert weights_of(asked.act([make_state(0)])[0]) == 2
    httpx.post(f"{url}/collective_rpc", json={"kwargs": {"weights_path": str(tmp_path / "base")}})
    httpx.post(f"{url}/update_weight_version", json={"new_version": "default"})
    [reply] = asked.act([make_state(0)])
    assert "had other weights" in reply.error
    assert weights_of(asked.act([make_state(0)])[0]) == 2, "they were brought back"
    fleet.close()
    assert httpx.get(f"{url}/health").is_success, "it is not ours to stop"


@pytest.mark.slow
def test_killed_run_leaves_no_process(tmp_path) -> None:
    weights(tmp_path / "base", 1)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from algorithms.serving.server import Launch, Server\n"
        f"server = Server(launch=Launch({FAKE!r}, [], {{}}, Path({str(tmp_path / 'log')!r})))\n"
        f"server.start(Path({str(tmp_path / 'base')!r})); print(server.pid, flush=True)\n"
        "time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    pids = below(int(run.stdout.readline()))
    assert len(alive(pids)) == 3
    run.kill()
    run.wait()
    assert gone(pids)
