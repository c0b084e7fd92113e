"""A real vLLM with the embedded model: the same numbers, the right version, nothing lost.

In float32, where differences in rounding stay small enough to see any other.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from algorithms.engine.adapters import with_adapter
from algorithms.engine.checkpoint import load_model, load_tokenizer, save_checkpoint
from algorithms.engine.rendering import Renderer
from algorithms.engine.scorer import HFScorer
from algorithms.serving.fleet import Fleet
from algorithms.serving.scorer import ServedScorer
from algorithms.serving.vllm_policy import VLLMPolicy
from algorithms.serving.weights import Version
from experiments.pipeline.build import RunContext
from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Episode, TaskInstance, Turn
from tests.algorithms.conftest import make_episode, make_state
from tests.algorithms.serving.conftest import ARGUMENTS, ENVIRONMENT
from tests.algorithms.serving.test_fleet import below, gone
from tests.experiments.test_configuration import configuration
from tests.support.toy_tasks import copies, real_provider, toy_task

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
STORY = (
    "It worked last week, and nobody has touched that module since. " * 40
)  # as long as issues are
CLOSE = 1e-3  # of log-probs in float32; another version is off by much more


@dataclass
class Served:
    fleet: Fleet
    versions: dict[str, Version]
    renderer: Renderer
    _scorers: dict[str, HFScorer] = field(default_factory=dict)

    def policy(self, name: str, **options: Any) -> VLLMPolicy:
        options = {"max_new_tokens": 8, "max_context": 2048, "temperature": 0.8, **options}
        return VLLMPolicy(self.fleet, self.versions[name], self.renderer, [2], **options)

    def differences(self, name: str, turns: Sequence[Turn]) -> torch.Tensor:
        """Between what was served and what the trainer computes with the weights ``name``."""
        if name not in self._scorers:
            model = load_model(self.versions[name].folder, torch.float32)
            self._scorers = {name: HFScorer(model, self.renderer.tokenizer, name)}
        [scores] = self._scorers[name].score([make_episode(list(turns))])
        off = [  # a turn that was cut short has an end that nobody sampled
            abs(served - computed)
            for turn, one in zip(turns, scores, strict=True)
            for served, computed in zip(turn.logprobs, one.logprobs, strict=False)
        ]
        return torch.tensor(off)


@pytest.fixture(scope="module")
def served(
    vllm_python: str, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vllm")
    tokenizer = load_tokenizer(smollm2)
    for seed, name in ((1, "one"), (2, "two")):
        model = with_adapter(load_model(smollm2), 16, seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.normal_(std=0.01)
        save_checkpoint(model, tokenizer, folder / name)
    cfg = configuration("serving=vllm", "training=lora", f"paths.runs={folder}")
    cfg.serving.server.python, cfg.model.dtype = vllm_python, "float32"
    cfg.serving.max_context = 2048
    cfg.serving.server.arguments, cfg.serving.server.environment = ARGUMENTS, ENVIRONMENT
    fleet = RunContext(cfg).student.fleet
    places = {"base": smollm2, "one": folder / "one", "two": folder / "two"}
    versions = {name: Version.of(place) for name, place in places.items()}
    fleet.publish(versions["base"])
    yield Served(fleet, versions, Renderer(tokenizer))
    fleet.close()


def talk(policy: VLLMPolicy, turns: int = 2, episodes: int = 2) -> list[list[Turn]]:
    """Some turns of some conversations."""
    conversations: list[list[Turn]] = [[] for _ in range(episodes)]
    for turn in range(turns):
        seen = [f"{n}: the tests fail in line {turn * 13 + n}." for n in range(episodes)]
        states = [make_state(n, tuple(conversations[n]), seen[n]) for n in range(episodes)]
        for turns_so_far, state, reply in zip(
            conversations, states, policy.act(states), strict=True
        ):
            turns_so_far.append(executed(state, reply))
    return conversations


def executed(state: State, reply: Reply) -> Turn:
    assert not reply.error, reply.error
    return Turn(
        state.observation,
        "student",
        reply.text or "",
        token_ids=reply.token_ids,
        logprobs=reply.logprobs,
        policy_version=reply.policy_version,
    )


def test_server_logprobs_equal_trainer_logprobs(served: Served) -> None:
    for name, other in (("base", "one"), ("one", "two"), ("two", "base")):
        served.fleet.publish(served.versions[name])
        for turns in talk(served.policy(name)):
            off = served.differences(name, turns)
            assert off.max() < CLOSE, f"{name}: {off.max():.2g}"
            assert {turn.policy_version for turn in turns} == {str(served.versions[name].folder)}
        assert served.differences(other, turns).mean() > 5 * CLOSE
    again = [served.policy("two", temperature=0.0).act([make_state(0)])[0] for _ in range(2)]
    assert again[0].token_ids == again[1].token_ids


def test_served_teacher_scores_equal_trainer(served: Served, smollm2: Path) -> None:
    served.fleet.publish(served.versions["base"])
    url = f"{served.fleet.servers[0].url}/v1"
    asked = ServedScorer(url, served.versions["base"].model, served.renderer, name="teacher")
    asked.check()
    local = HFScorer(load_model(smollm2, torch.float32), served.renderer.tokenizer, "teacher")
    episodes = [make_episode(turns) for turns in talk(served.policy("base"))]
    pairs = zip(asked.score(episodes, 5), local.score(episodes, 5), strict=True)
    for one, other in [pair for found in pairs for pair in zip(*found, strict=True)]:
        assert one.logprobs == pytest.approx(other.logprobs, abs=CLOSE)
        assert sum(one.top_logprobs, ()) == pytest.approx(sum(other.top_logprobs, ()), abs=CLOSE)


def test_turn_ends_with_end_token(served: Served) -> None:
    served.fleet.publish(served.versions["base"])
    policy = served.policy("base", temperature=0.0, max_new_tokens=40)
    [reply] = policy.act([make_state(0, (), "Say yes and nothing else.")])
    assert reply.token_ids[-1] == 2 and "<|im_end|>" not in (reply.text or "")
    assert len(reply.logprobs) == len(reply.token_ids)
    assert reply.text == served.renderer.decode(reply.token_ids[:-1])


def test_old_adapter_is_not_sampled_after_switch(served: Served) -> None:
    served.fleet.publish(served.versions["one"])
    old, new = served.policy("one", max_new_tokens=6), served.policy("two", max_new_tokens=6)
    before: list[Turn] = []
    late: list[Reply] = []
    switched, end = threading.Event(), threading.Event()

    def go_on_asking() -> None:
        number = 0
        while not end.is_set():
            number += 1
            after = switched.is_set()
            states = [make_state(number * 4 + n, (), f"{number} {n}") for n in range(4)]
            for state, reply in zip(states, old.act(states), strict=True):
                if not reply.error:
                    before.append(executed(state, reply))
                    late.extend([reply] * after)

    thread = threading.Thread(target=go_on_asking)
    thread.start()
    while len(before) < 4:
        end.wait(0.1)
    served.fleet.publish(served.versions["two"])
    switched.set()
    [after] = talk(new, turns=1, episodes=1)
    end.set()
    thread.join()
    assert not late
    assert served.differences("two", after).max() < CLOSE
    assert max(served.differences("one", [turn]).max() for turn in before) < CLOSE
    gone = {"model": served.versions["one"].model, "prompt": [5], "max_tokens": 1}
    url = served.fleet.servers[0].url
    assert httpx.post(f"{url}/v1/completions", json=gone).status_code == 404


class Watched:
    """A policy that keeps what it was asked and answered, and calls ``then`` after each batch."""

    needs_sandbox, name = False, "student"

    def __init__(self, policy: VLLMPolicy, then: Any = lambda batch: None) -> None:
        self.policy, self.then = policy, then
        self.seen: list[tuple[list[int], tuple[int, ...]]] = []
        self.batch_sizes = 0

    def act(self, states: Sequence[State]) -> list[Reply]:
        self.batch_sizes += 1
        self.then(self.batch_sizes)
        replies = self.policy.act(states)
        for state, reply in zip(states, replies, strict=True):
            ids = self.policy.renderer.prompt(state.system_prompt, state.turns, state.observation)
            self.seen.append((ids, reply.token_ids))
        return replies


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TaskInstance]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        tasks = copies(toy_task(home), 3)
        yield [
            replace(task, problem_statement=f"{n}. {task.problem_statement}\n{STORY}")
            for n, task in enumerate(tasks)
        ]


def play(tasks: Sequence[TaskInstance], student: Watched, concurrency: int) -> list[Episode]:
    played: list[Episode] = []
    limits = {"max_turns": 5, "max_format_errors": 9, "max_repeats": 9, "grade": "deferred"}
    rollout(
        [Request(task, seed=3, round=1) for task in tasks],
        make_env=lambda task: SWEEnv([task], sandbox=real_provider("local"), **limits),
        student=student,
        mixer=StudentOnly(),
        annotate=False,
        on_episode=lambda episode, labels: played.append(episode),
        concurrency=concurrency,
    )
    return played


def counted(url: str) -> tuple[float, float]:
    """Prompt tokens that were asked for, and those of them that were there already."""
    rows = httpx.get(f"{url}/metrics").text.splitlines()
    names = ("vllm:prefix_cache_queries_total{", "vllm:prefix_cache_hits_total{")
    asked, hit = (sum(float(r.split()[-1]) for r in rows if r.startswith(name)) for name in names)
    return asked, hit


def new_tokens(seen: Sequence[tuple[list[int], tuple[int, ...]]]) -> int:
    """Prompt tokens that nothing before has computed. A turn's last token was never fed."""
    known: set[int] = set()
    fresh = 0
    for prompt, sampled in seen:
        marks = [hash(tuple(prompt[: n + 1])) for n in range(len(prompt))]
        fresh += sum(mark not in known for mark in marks)
        known.update(marks)
        whole = [*prompt, *sampled[:-1]]
        known.update(hash(tuple(whole[: n + 1])) for n in range(len(prompt), len(whole)))
    return fresh


def test_prompt_tokens_are_rarely_recomputed(
    served: Served, toys: list[TaskInstance], record_property: Any
) -> None:
    version = served.versions["two"]
    served.fleet.publish(version)
    student = Watched(served.policy("two"))
    url = served.fleet.servers[0].url
    before = counted(url)
    episodes = play(toys[:2], student, concurrency=1)
    asked, hit = (b - a for a, b in zip(before, counted(url), strict=True))
    assert [len(episode.turns) for episode in episodes] == [5, 5]
    assert asked == sum(len(prompt) for prompt, _ in student.seen)
    twice = (asked - hit - new_tokens(student.seen)) / asked
    record_property("prompt tokens computed twice", f"{twice:.4f} of {asked:.0f}")
    print(f"computed twice: {twice:.2%} of {asked:.0f} prompt tokens")
    assert 0 <= twice < 0.05


def test_server_killed_in_round_loses_no_turn(
    served: Served, toys: list[TaskInstance], caplog: pytest.LogCaptureFixture
) -> None:
    version, (server,) = served.versions["two"], served.fleet.servers
    served.fleet.publish(version)
    pids = below(server.pid or 0)
    starts = server.starts

    def kill(batch: int) -> None:
        if batch == 3:
            threading.Timer(0.5, os.kill, (pids[1], signal.SIGKILL)).start()

    student = Watched(served.policy("two"), kill)
    episodes = play(toys, student, concurrency=3)
    assert len(pids) >= 3 and gone(pids) and server.starts == starts + 1
    assert [len(episode.turns) for episode in episodes] == [5, 5, 5]
    assert "was lost" not in caplog.text
    asked = [tuple(prompt) for prompt, _ in student.seen]
    assert len(asked) == len(set(asked)) == 15, "no turn was played again"
    for episode in episodes:
        assert {turn.policy_version for turn in episode.turns} == {str(version.folder)}
    names = [row["id"] for row in httpx.get(f"{server.url}/v1/models").json()["data"]]
    assert names == ["student", version.model]
