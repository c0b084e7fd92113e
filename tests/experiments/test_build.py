"""Every option of every group becomes an object, or says what is missing."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.pipeline import preflight
from experiments.pipeline.build import RunContext
from experiments.pipeline.round import planned_share
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.types import TaskInstance
from tests.algorithms.conftest import tiny_model
from tests.algorithms.conftest import tokenizer as tokenizer
from tests.experiments.conftest import ROOT
from tests.experiments.test_configuration import OPTIONS, configuration

pytestmark = pytest.mark.xdist_group("configuration")

TASK = TaskInstance("one", "r", "c", "image", "p", "", "", (), (), "true")


class Silent:
    name, needs_sandbox = "silent", False

    def act(self, states: Sequence[State]) -> list[Reply]:
        return [Reply(error="silent") for _ in states]


def no_tokenizer(context: RunContext) -> None:
    """Of a model that is not here; it counts nothing."""
    context.student.count_tokens.__dict__["_backend"] = None


@pytest.mark.sampled(3)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_becomes_objects(option: str) -> None:
    named = ["teacher._target_=tests.experiments.test_build.Silent"] * (option == "teacher=policy")
    cfg = configuration(option, *named, "tasks=pypi", "sandbox=process")
    context = RunContext(cfg)
    no_tokenizer(context)
    form = context.make_env(TASK).form
    assert form.name == cfg.actions.name
    offered = ["bash", "str_replace_editor", "finish"]
    if form.name == "bash_block":
        offered.remove("str_replace_editor")
    assert [tool.name for tool in form.tools] == offered
    assert context.teacher.name in ("expert", cfg.teacher.get("model"), "trained", "hf:", "silent")
    assert context.algorithm.name == cfg.algorithm.name
    assert context.iteration0.collect(0).mixer.actor((0, 0, "one", 0, 0, "mixer")) == "teacher"
    assert context.training.lr == cfg.training.lr
    shares = [planned_share(context.algorithm.collect(i).mixer) for i in range(1, cfg.rounds + 1)]
    assert all(share is None or 0 <= share <= 1 for share in shares)


def test_the_editor_can_be_left_out() -> None:
    context = RunContext(
        configuration("actions=xml", "actions.tools=[bash,finish]", "sandbox=process")
    )
    no_tokenizer(context)
    assert [tool.name for tool in context.make_env(TASK).form.tools] == ["bash", "finish"]


@pytest.mark.parametrize("option", ["sandbox=docker", "tasks=swe_gym", "model=qwen8b"])
def test_what_is_not_there_is_named_with_the_nearest_thing_that_runs(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(SetupError, match="nearest thing that runs"):
        preflight.check(configuration(option))


@pytest.mark.parametrize(
    "wrong",
    [
        "teacher.name=nobody",
        "algorithm._target_=algorithms.nobody.A",
        "algorithm._target_=os.nobody",
    ],
)
def test_an_unknown_name_is_refused(wrong: str) -> None:
    context = RunContext(configuration(wrong))
    with pytest.raises(SetupError, match="nobody"):
        _ = context.teacher.policy if wrong.startswith("teacher") else context.algorithm


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "wrong,message",
    [
        ("algorithm._target_=no_package.mine.Mine", "module no_package.mine cannot be imported"),
        ("algorithm._target_=algorithms.dagger.Nobody", "algorithms.dagger has no class Nobody"),
        ("algorithm._target_=collections.Counter", "derived from algorithms.base.Algorithm"),
        ("algorithm._target_=collections.namedtuple", "derived from algorithms.base.Algorithm"),
        ("algorithm._target_=Mine", "give package.module.Class"),
        ("algorithm._target_=.mine.Mine", "give package.module.Class"),
        ("+algorithm.kep=all", r"DAgger has no option kep; its options are beta, keep, "),
        ("algorithm.keep=most", "algorithm.keep=most: it is one of all, finished, resolved"),
    ],
)
def test_algorithm_that_cannot_be_built_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        _ = RunContext(configuration(wrong)).algorithm


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong,message",
    [
        ("teacher._target_=collections.Counter", "it is no policy, it lacks name, needs_sandbox"),
        ("teacher._target_=Counter", "give package.module.Class, a class$"),
        ("+teacher.options.color=1", "Silent has no option color; its options are none"),
    ],
)
def test_policy_that_cannot_be_built_is_refused(wrong: str, message: str) -> None:
    silent = "teacher._target_=tests.experiments.test_build.Silent"
    cfg = configuration("teacher=policy", silent, wrong)
    with pytest.raises(SetupError, match=message):
        _ = RunContext(cfg).teacher.policy


def test_template_without_the_thinking_mode_is_refused_at_the_start(
    smollm2: Path,
) -> None:
    cfg = configuration(f"model.path={smollm2}", "sandbox=process", "model.thinking=stripped")
    with pytest.raises(SetupError, match="thinking=stripped; set it to kept"):
        RunContext(cfg).make_env(TASK)


def check_scores(override: str) -> None:
    context = RunContext(configuration(override))
    context.teacher.check_scores(context.algorithm)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["opd", "gkd", "mixed"])
def test_a_teacher_of_words_alone_cannot_score(method: str) -> None:
    with pytest.raises(SetupError, match=f"{method} needs the teacher's log-probs.*=trained"):
        check_scores(f"algorithm={method}")
    check_scores("algorithm=dagger")


ELSEWHERE = """
import pickle, sys
make_env, paid = pickle.load(sys.stdin.buffer)
env = make_env(pickle.load(sys.stdin.buffer))
print(env.form.name, env._count("two words"), paid._count("two words"), "torch" in sys.modules)
"""


@pytest.mark.slow
def test_what_goes_to_another_machine_needs_neither_the_models_folder_nor_torch(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    tiny_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    context = RunContext(configuration(f"model.path={model}", "sandbox=process"))
    context.make_env(TASK)  # what was made here stays here
    paid = context.teacher.paid(context.teacher.account([]))
    paid.account = None  # as the roll-out on a cluster takes it away
    sent = pickle.dumps((context.make_env, paid)) + pickle.dumps(TASK)
    shutil.rmtree(model)
    command = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(command, input=sent, capture_output=True, cwd=ROOT)
    count = len(tokenizer.encode("two words", add_special_tokens=False))
    assert done.stdout.decode().split() == ["bash_block", f"{count}", f"{count}", "False"], (
        done.stderr
    )


@pytest.mark.model
def test_the_student_is_loaded_only_when_it_is_asked() -> None:
    policy = RunContext(configuration()).student.policy(Path("/nowhere"), temperature=0.0)
    assert isinstance(policy, LazyPolicy)
    with pytest.raises(SetupError, match="/nowhere"):
        policy.act([])
