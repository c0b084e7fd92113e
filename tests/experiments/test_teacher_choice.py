"""The teacher of a configuration: who it is, in which form it speaks, what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from algorithms.base import Algorithm, Collect, Round, Scoring, TrainingExample
from experiments.console.progress import Display
from experiments.pipeline import preflight, teachers
from experiments.pipeline.build import RunContext
from experiments.pipeline.round import score
from experiments.runs.folders import iteration0_folder, run_folder, trained_folder
from swe_gym_env.actions import action_format
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import State
from swe_gym_env.policies.budget import Spent
from swe_gym_env.policies.format_adapter import in_form
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, tiny_model
from tests.algorithms.serving.test_scorer import Server
from tests.experiments.test_configuration import configuration
from tests.policies.test_server import TASK
from tests.support.toy_tasks import FIX


def test_another_model_teaches_with_its_own_tokenizer_template_and_form(
    smollm2: Path,
    tokenizer,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = tmp_path / "student"
    tiny_model(len(tokenizer)).save_pretrained(student)
    tokenizer.save_pretrained(student)
    given = (f"model.path={student}", "teacher=hf", f"teacher.path={smollm2}")
    given += ("teacher.actions=xml", "teacher.dtype=float32", "teacher.temperature=0")
    context = RunContext(configuration(*given, "teacher.max_new_tokens=16", "serving.cache_gb=0.1"))
    turn = Turn("Broken.", "student", FIX, action_format("bash_block").parse(FIX), (1 << 30,))
    state = State((0, 0, "toy-1", 0, 1, "teacher"), TASK, "the student's", (turn,), "(no output)")
    [reply] = context.teacher.policy.act([state])
    assert context.teacher.name == f"hf:{smollm2}"
    assert reply.action or reply.error.startswith("format: ")

    words = AutoTokenizer.from_pretrained(smollm2)
    seen = in_form(state, action_format("xml", ["bash", "finish"])).messages
    ids = words.apply_chat_template(
        seen, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    plain = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    wanted = plain.generate(**ids, do_sample=False, max_new_tokens=16)[0, ids.input_ids.shape[1] :]
    assert list(reply.token_ids) == wanted.tolist()
    with pytest.raises(SetupError, match="another tokenizer than the student"):
        context.teacher.scorer()


@pytest.mark.parametrize(
    ("student", "written", "tools"),
    [
        ("bash_block", "xml", ["bash", "finish"]),
        ("xml", "bash_block", ["bash", "finish"]),
        ("xml", "hermes_json", ["bash", "str_replace_editor", "finish"]),
        ("xml", "null", ["bash", "str_replace_editor", "finish"]),
    ],
)
def test_a_teacher_is_offered_the_tools_of_the_student(student: str, written: str, tools) -> None:  # type: ignore[no-untyped-def]
    cfg = configuration("teacher=server", f"actions={student}", f"teacher.actions={written}")
    form = teachers.written(cfg, RunContext(cfg).student.form)
    assert form.name == (student if written == "null" else written)
    assert [tool.name for tool in form.tools] == tools


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (("teacher=trained",), r"python -m experiments\.teacher"),
        (("teacher=hf",), r"teacher\.path=FOLDER"),
        (("teacher=hf", "teacher.path=/nowhere"), "/nowhere"),
    ],
)
def test_a_teacher_that_is_not_there_is_named_at_the_start(
    given: tuple[str, ...], printed: str, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=printed):
        preflight.check(configuration(*given, f"paths.runs={tmp_path}", "sandbox=process"))


def test_no_log_probs_from_a_teacher_of_words() -> None:
    with pytest.raises(SetupError, match="teacher=trained"):
        context = RunContext(configuration("algorithm=opd"))
        context.teacher.check_scores(context.algorithm)


@pytest.mark.slow
def test_a_trained_teacher_is_shared_by_runs_that_differ_elsewhere() -> None:
    def name(*given: str) -> str:
        return trained_folder(configuration("teacher=trained", *given)).path.name

    same = ("seed=1", "training.lr=1", "training.epochs=9", "algorithm=sft", "sampling.top_p=1")
    same += ("teacher.temperature=1", "teacher.budget.calls=3", "teacher.val_tasks=9")
    assert name(*same) == name()
    others = ["teacher.seed=1", "teacher.episodes=5", "teacher.training.lr=1", "tasks=pypi_full"]
    others += ["teacher.tests=false", "teacher.rounds=1"]
    assert len({name(), *(name(other) for other in others)}) == 7


@pytest.mark.slow
def test_an_unlimited_budget_changes_no_folder() -> None:
    one = run_folder(configuration()).path
    assert run_folder(configuration("teacher.prices.prompt=2")).path == one
    limited = ("teacher.budget.calls=9",)
    assert run_folder(configuration(*limited)).path != one
    assert iteration0_folder(configuration(*limited), []) != iteration0_folder(configuration(), [])


def test_an_account_goes_on_from_what_lies_on_disk(tmp_path: Path) -> None:
    folders = [RoundFolder(tmp_path / f"round_{n}") for n in range(2)]
    cfg = configuration("teacher.budget.money=1", "teacher.prices.scored=10")
    RunContext(cfg).teacher.account(folders[:1]).add(Spent(calls=1, scored_tokens=60_000))
    folders[0].add_spent("another annotator", Spent(calls=100, scored_tokens=10**9))
    account = RunContext(cfg).teacher.account(folders)
    assert account.spent == Spent(calls=1, scored_tokens=60_000) and not account.over()
    account.add(Spent(scored_tokens=40_000))
    with (folders[1].path / "teacher.jsonl").open("ab") as file:
        file.write(b'{"teacher": "expert", "calls": 1')  # torn by a kill
    assert RunContext(cfg).teacher.account(folders).over()
    assert RunContext(cfg).teacher.account(folders).metrics["teacher_cost"] == 1.0


@dataclass(frozen=True)
class Distils(Algorithm):
    """Asks for the teacher's log-probs and learns nothing."""

    name: str = "distils"

    @property
    def scoring(self) -> Scoring:
        return Scoring("teacher", top_k=2)

    def collect(self, round: int) -> Collect:
        return Collect(StudentOnly(), annotate="nothing")

    def examples(self, rounds: Sequence[Round]) -> list[TrainingExample]:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("served", [False, True])
def test_scoring_ends_with_the_budget_and_the_rest_stays_unscored(
    tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], served: bool
) -> None:
    model = tmp_path / "model"
    tiny_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    folders = [RoundFolder(tmp_path / f"round_{n}") for n in range(2)]
    for name in "abc":
        turns = [Turn("see", "student", "done", None, (1, 2, 3), (-1.0, -1.0, -1.0))] * 2
        folders[1].append(make_episode(turns, name))
    teacher, server = ("teacher=hf", f"teacher.path={model}"), Server(tokenizer)
    if served:
        teacher = ("teacher=server", "teacher.scores=true", f"teacher.base_url={server.url}")
    given = (f"model.path={model}", "model.dtype=float32", *teacher)
    context = RunContext(configuration(*given, "algorithm=opd"))
    context.teacher.check_scores(context.algorithm)
    cfg = configuration(*given, "teacher.budget.scored_tokens=9", "teacher.prices.scored=1e6")
    for _ in range(2):  # the second time, nothing is left to do
        context = RunContext(cfg)
        score(
            Distils(),
            folders,
            student=context.student,
            teacher=context.teacher,
            display=Display(),
        )
        scores = folders[1].scores()
        assert [one.episode_id for one in scores] == ["a", "a", "b", "b"]
        counted = sum(len(one.logprobs) for one in scores)
        metrics = folders[1].metrics
        assert metrics["teacher_scored_tokens"] == counted == metrics["teacher_cost"] == 16
        assert metrics["budget_spent"] is True
    assert capsys.readouterr().err.count("the teacher's budget is spent") == 1
    server.http.shutdown()
