"""Teachers in whole jobs: one is trained by a command, others label a round again, one is spent."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest

from experiments.pipeline.build import RunContext
from swe_gym_env import prompts
from swe_gym_env.actions import action_format
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import ToolCall
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration
from tests.policies.test_server import Model, chat
from tests.policies.test_server import model as model

SMALL = ("teacher.episodes=3", "teacher.training.epochs=1", "teacher.max_new_tokens=8")
MADE = (*SMALL, "teacher.rounds=1", "teacher.episodes_per_round=2")
HERMES = action_format("hermes_json", ["bash", "finish"])


def labels(folder: Path, annotator: str) -> list[tuple[str, int, str | None]]:
    found = RoundFolder(folder).annotations()
    return [(a.episode_id, a.turn, a.text) for a in found if a.annotator == annotator]


def again(job: Job, run: Path, *overrides: str, code: int = 0) -> str:
    """The command that labels round 1 of ``run``."""
    given = (f"run={run}", "round=1", "workers.threads=1", *overrides)
    return Job(job.home, job.runs, given).run(module="experiments.annotate", code=code)


@pytest.mark.timeout(900)
def test_a_round_is_labeled_again_by_other_teachers(job: Job, model: Model) -> None:
    job.run("beta=constant")
    run = job.folder()
    own = run / "rounds/round_001"
    turns = sum(len(episode.turns) for episode in RoundFolder(own).episodes())
    before = labels(own, "expert")
    assert len(before) == turns

    model.answer = lambda body, n: chat(HERMES.render(ToolCall("bash", {"command": f"echo {n}"})))
    server = ("teacher=server", f"teacher.base_url={model.url}", "teacher.model=small")
    printed = again(job, run, *server, "teacher.actions=hermes_json")
    assert f"{turns} labels by small, 0 states without" in printed
    assert all(text and text.startswith("```bash\necho ") for _, _, text in labels(own, "small"))
    assert labels(own, "expert") == before and len(model.requests) == turns
    system = model.requests[0]["messages"][0]["content"]
    assert system == prompts.system_prompt(HERMES)
    again(job, run, *server)
    assert len(model.requests) == turns, "what is labeled is not asked again"

    (own / "annotations.jsonl").unlink()
    assert f"{turns} labels by expert" in again(job, run, "teacher=expert", "sandbox=local")
    assert labels(own, "expert") == before, "in a sandbox that was played again it says the same"

    printed = again(job, run, "teacher=trained", *SMALL, code=2)
    assert "python -m experiments.teacher" in printed and "Traceback" not in printed


def test_the_command_line_of_labeling_says_what_it_wants(job: Job) -> None:
    def printed(*given: str, code: int = 2) -> str:
        return Job(job.home, job.runs, given).run(module="experiments.annotate", code=code)

    assert "run=RUN_FOLDER round=N" in printed("--help", code=0)
    assert "give a run folder" in printed("run=/nowhere", "round=1", "teacher=expert")
    job.runs.mkdir()
    (job.runs / "config.yaml").write_text("seed: 0\n")
    assert "its rounds" in printed(f"run={job.runs}", "teacher=expert")
    assert "the run's own" in printed(f"run={job.runs}", "round=1", "teacher=expert", "seed=1")
    assert "teacher=NAME is needed" in printed(f"run={job.runs}", "round=1")
    assert "expert" in printed(f"run={job.runs}", "round=1", "teacher=nobody")


@pytest.mark.timeout(900)
def test_a_teacher_is_trained_by_one_command_then_samples_and_scores(job: Job) -> None:
    printed = job.run("teacher=trained", *MADE, code=2)
    (command,) = [line for line in printed.splitlines() if "python -m experiments.teacher" in line]
    given = shlex.split(command)[3:]
    assert given == [*job.overrides, "teacher=trained", *MADE]

    maker = Job(job.home, job.runs, tuple(given))
    printed = maker.run("teacher.val_tasks=2", module="experiments.teacher")
    folder = job.folder("teacher-*")
    checkpoint = folder / "rounds/round_001/checkpoint"
    assert f"teacher=trained: {checkpoint}" in printed and "of 2" in printed
    made = (checkpoint / "model.safetensors").stat().st_mtime_ns
    maker.run(module="experiments.teacher")
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == made, "it is there already"

    context = RunContext(configuration(*job.overrides, "teacher=trained", *MADE, "seed=3"))
    shares = [
        {episode.teacher_share for episode in RoundFolder(folder / name).episodes()}
        for name in ("rounds/round_000", "rounds/round_001")
    ]
    assert shares == [{1.0}, {0.0}], "the expert shows it, then watches"
    episodes = RoundFolder(folder / "rounds/round_000").episodes()
    scores = [one for found in context.teacher.scorer().score(episodes, 2) for one in found]
    assert len(scores) == sum(len(episode.turns) for episode in episodes)
    assert all(one.scorer == "trained" and max(one.logprobs) <= 0 for one in scores)
    job.run("teacher=trained", *MADE)
    asked = RoundFolder(job.folder() / "rounds/round_001").metrics
    assert asked["teacher_calls"] > 0 and asked["unlabeled"] + asked["labels"] == asked["turns"]
    job.run("teacher=trained", *MADE, "evaluation.who=teacher", module="experiments.evaluate")
    alone = RoundFolder(job.folder("evaluation-trained-*")).metrics
    assert alone["model"] == "trained" and alone["n"] == alone["tasks"] > 0


@pytest.mark.timeout(900)
def test_a_budget_is_kept_through_a_kill_and_the_run_ends_without_its_teacher(job: Job) -> None:
    limit = 20
    job.interrupted(
        "dagger-*/rounds/round_001/teacher.jsonl",
        1,
        signal.SIGKILL,
        f"teacher.budget.calls={limit}",
    )
    files = sorted(job.runs.glob("*/rounds/round_00?/teacher.jsonl"))
    before = {path: path.read_text() for path in {path.resolve() for path in files}}
    printed = job.run(f"teacher.budget.calls={limit}")
    assert printed.count("the teacher's budget is spent (calls 20 of 20)") == 1
    assert all(path.read_text().startswith(text) for path, text in before.items())
    run = job.folder()
    rows = [
        json.loads(line)
        for path in sorted(run.glob("rounds/*/teacher.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert sum(row["calls"] for row in rows) == limit
    metrics = RoundFolder(run / "rounds/round_001").metrics
    assert (metrics["teacher_calls"], metrics["budget_spent"]) == (limit, True)
    assert metrics["teacher_generated_tokens"] == sum(row["generated_tokens"] for row in rows) > 0
    assert metrics["unlabeled"] > 0 and metrics["teacher_cost"] is None
    first = RoundFolder(run / "rounds/round_000").metrics
    assert not first["budget_spent"] and first["teacher_calls"] < limit
    assert (run / "summary.json").exists()
