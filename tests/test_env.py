"""SWEEnv through Gymnasium's own checks, in real sandboxes, to every end an episode can have."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.spaces import AnyText, outgoing
from swe_gym_env.types import Outcome, TaskInstance, ToolCall
from tests.support.toy_tasks import (
    FINISH,
    FIX,
    LOOK,
    PROVIDERS,
    Flaky,
    copies,
    real_provider,
    toy_task,
)

pytestmark = pytest.mark.sandbox

Make = Callable[..., SWEEnv]


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> SandboxProvider:
    return real_provider(request.param)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TaskInstance]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield copies(toy_task(home), 4)


@pytest.fixture
def make(tasks: list[TaskInstance], provider: SandboxProvider) -> Iterator[Make]:
    made: list[SWEEnv] = []

    def build(**options: Any) -> SWEEnv:
        env = SWEEnv(tasks, **{"sandbox": provider, "grade": "never", **options})
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()


def play(env: SWEEnv, texts: Sequence[str]) -> tuple[str, float, bool, bool, dict[str, Any]]:
    env.reset(options={"instance_id": "toy-1"})
    for text in texts:
        step = env.step(text)
    return step


def bash(command: str) -> str:
    return f"```bash\n{command}\n```"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("form", ["bash_block", "hermes_json", "openai_tools", "xml"])
def test_gymnasium_accepts_it(
    tasks: list[TaskInstance], provider: SandboxProvider, form: str
) -> None:
    options = {"sandbox": provider, "action_format": form, "grade": "never"}
    env = gymnasium.make("swe_gym_env:SWE-v0", tasks=tasks, render_mode="ansi", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()
    env.close()


def test_a_fixed_bug_is_rewarded(make: Make) -> None:
    env = make(grade="on_end", render_mode="ansi")
    prompt, info = env.reset(options={"instance_id": "toy-2"})
    assert info["instance_id"] == "toy-2" and info["turn"] == 0 and info["action"] is None
    assert prompt.startswith("add(1, 2) returns -1") and "```bash" in info["system_prompt"]
    seen, reward, terminated, truncated, info = env.step(LOOK)
    assert "return a - b" in seen and (reward, terminated, truncated) == (0.0, False, False)
    assert info["action"] == ToolCall("bash", {"command": "cat calc.py"}, "I look.")
    assert not {"outcome", "stop_reason", "patch", "costs"} & set(info)
    env.step(FIX)
    _, reward, terminated, truncated, info = env.step(FINISH)
    assert (reward, terminated, truncated) == (1.0, True, False), info["outcome"]
    assert info["outcome"].resolved and info["stop_reason"] == "finished" and info["turn"] == 3
    assert "+    return a + b" in info["patch"]
    assert set(info["costs"]) == {"start", "tools", "diff", "grade"}
    shown = env.render()
    assert shown is not None and shown.startswith(prompt) and FIX in shown
    with pytest.raises(ResetNeeded):
        env.step(LOOK)


def test_what_is_wrong_or_untouched_is_not(make: Make) -> None:
    env = make(grade="on_end")
    wrong = bash("sed -i 's/a - b/a * b/' calc.py")
    _, reward, _, _, info = play(env, [wrong, FINISH])
    assert (reward, info["outcome"].status) == (0.0, "unresolved")
    _, reward, _, _, info = play(env, [LOOK, FINISH])
    assert (reward, info["outcome"].status) == (0.0, "empty_patch")


def test_grading_can_wait(make: Make) -> None:
    env = make(grade="deferred")
    _, reward, terminated, _, info = play(env, [FIX, FINISH])
    assert (reward, terminated) == (0.0, True) and "outcome" not in info
    assert env.sandbox is None  # the sandbox is given back before the tests run
    assert env.grade().resolved
    with pytest.raises(ResetNeeded):
        make().grade()


@pytest.mark.parametrize(
    ("options", "texts", "reason"),
    [
        ({"max_turns": 2}, [LOOK, FIX], "max_turns"),
        ({"max_tokens": 300}, [FIX, bash("seq 400")], "max_tokens"),
        ({"max_seconds": 0.8}, [FIX, bash("sleep 30")], "max_seconds"),
        ({"max_format_errors": 2}, [FIX, "what?", LOOK, "what?", "hm"], "max_format_errors"),
        ({"max_repeats": 2}, [LOOK, FIX, LOOK, bash(" cat calc.py\n")], "max_repeats"),
    ],
)
def test_each_budget_ends_the_episode_and_scores_it(
    make: Make, options: dict[str, Any], texts: list[str], reason: str
) -> None:
    _, reward, terminated, truncated, info = play(make(grade="on_end", **options), texts)
    assert (terminated, truncated, info["stop_reason"]) == (False, True, reason)
    assert (reward, info["outcome"].status) == (1.0, "resolved")
    assert info["turn"] == len(texts)


def test_it_can_be_stopped_from_outside_and_is_scored(make: Make) -> None:
    env = make(grade="on_end")
    env.reset()
    env.step(FIX)
    _, reward, terminated, truncated, info = env.stop("context_full")
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert info["stop_reason"] == "context_full"
    with pytest.raises(ResetNeeded):
        env.stop("again")


def test_tokens_are_counted_by_the_given_function(make: Make) -> None:
    env = make(count_tokens=lambda text: 1)
    _, info = env.reset()
    assert info["tokens"] == 2  # system prompt and task prompt
    assert env.step(LOOK)[4]["tokens"] == 4


def test_any_text_is_answered(make: Make) -> None:
    env = make(max_turns=1000, max_format_errors=1000, max_repeats=1000)
    env.reset()
    rng = random.Random(0)
    pieces = ["```bash\n", "\n```", "ls", "\0", "\ud800", "é", "\x1b[", "```", "\n", "'", "$("]
    for _ in range(60):
        text = "".join(rng.choices(pieces, k=rng.randrange(9)))
        observation, reward, terminated, truncated, _ = env.step(text)
        observation.encode()
        assert env.observation_space.contains(observation) and observation
        assert (reward, terminated, truncated) == (0.0, False, False)


def test_the_seed_chooses_the_task(make: Make) -> None:
    env = make()
    chosen = {env.reset(seed=seed)[1]["instance_id"] for seed in range(12)}
    assert len(chosen) > 1
    assert env.reset(seed=5)[1]["instance_id"] == env.reset(seed=5)[1]["instance_id"]
    with pytest.raises(SetupError, match="no task 'nope'"):
        env.reset(options={"instance_id": "nope"})


def test_dead_sandbox_is_a_masked_outcome(make: Make, provider: SandboxProvider) -> None:
    flaky = Flaky(provider, {0: 1, 1: 2})
    env = make(sandbox=flaky, grade="on_end")
    observation, reward, terminated, truncated, info = play(env, [LOOK, FIX])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["stop_reason"] == "infra_error" and "failed" in observation
    assert info["outcome"] == Outcome(
        "infra_error", mask=True, reason="sandbox: the sandbox is gone"
    )
    step = play(env, [LOOK, FIX, FINISH])  # the diff finds the sandbox gone
    assert step[4]["outcome"].mask and step[3]
    assert all(sandbox.closed for sandbox in flaky.made)


def test_reset_raises_without_a_sandbox(make: Make) -> None:
    class Broken:
        name = "broken"

        def unavailable(self) -> None:
            return None

        def create(self, spec: object) -> None:
            raise SandboxError("no room")

    with pytest.raises(SandboxError, match="no room"):
        make(sandbox=Broken()).reset()


def test_nothing_starts_before_reset() -> None:
    env = SWEEnv("no such task set", sandbox="no such sandbox")
    assert env.sandbox is None
    env.close()
    with pytest.raises(ResetNeeded):
        env.step("x")
    with pytest.raises(SetupError, match="on_end"):
        SWEEnv([], grade="sometimes")  # type: ignore[arg-type]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("vector", [SyncVectorEnv, partial(AsyncVectorEnv, shared_memory=False)])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_many_at_once(
    tasks: list[TaskInstance],
    provider: SandboxProvider,
    vector: Callable[..., VectorEnv],
    mode: AutoresetMode,
) -> None:
    build = partial(SWEEnv, tasks, sandbox=provider, grade="on_end")
    envs = vector([build, build], autoreset_mode=mode)
    try:
        prompts, info = envs.reset(seed=1, options={"instance_id": "toy-3"})
        assert len(prompts) == 2 and list(info["instance_id"]) == ["toy-3", "toy-3"]
        seen, *_ = envs.step((LOOK, "nonsense"))
        assert "return a - b" in seen[0] and seen[1].startswith("Not run")
        envs.step((FIX, LOOK))
        _, rewards, terminated, truncated, info = envs.step((FINISH, FIX))
        assert (list(rewards), list(terminated)) == ([1.0, 0.0], [True, False])
        assert info["outcome"][0].resolved and not truncated.any()
        if mode == AutoresetMode.DISABLED:
            seen, _ = envs.reset(options={"reset_mask": terminated})
        else:
            seen, _, terminated, *_ = envs.step((LOOK, LOOK))
            assert not terminated.any()
        assert seen[0].startswith("add(1, 2)")
        seen, *_ = envs.step((LOOK, LOOK))
        assert "a - b" in seen[0] and "a + b" in seen[1]
    finally:
        envs.close()


@pytest.mark.parametrize("name", ["hermes_json", "openai_tools", "xml"])
def test_every_format_plays_an_episode_with_the_editor(make: Make, name: str) -> None:
    env = make(action_format=name, grade="on_end")
    arguments = {"command": "str_replace", "path": "/testbed/calc.py", "old_str": "a - b"}
    calls = [
        ToolCall("bash", {"command": "cd /tmp"}, "I look elsewhere."),
        ToolCall("str_replace_editor", {**arguments, "new_str": "a + b"}, "I fix it."),
        ToolCall("finish"),
    ]
    _, info = env.reset(options={"instance_id": "toy-1"})
    assert "str_replace_editor" in info["system_prompt"]
    observation = env.step(LOOK)[0]
    assert observation.startswith("Not run: ") and observation.endswith(env.form.example)
    observations = []
    for call in calls:
        observation, reward, terminated, _, info = env.step(env.form.render(call))
        observations.append(observation)
        assert info["action"] == call
    assert observations[1] == "(done)\n1\tdef add(a, b):\n2\t    return a + b"
    assert (reward, terminated) == (1.0, True) and info["outcome"].resolved


def test_the_text_space_takes_any_text_up_to_its_length() -> None:
    space = AnyText(50)
    assert space.contains("") and space.contains("a b\n`\0\ud800") and not space.contains("x" * 51)
    assert not space.contains(3)
    space.seed(0)
    assert all(space.contains(space.sample()) for _ in range(50))
    assert outgoing("ab\ud800c", 10) == "ab?c" and outgoing("abc", 2) == "ab"
