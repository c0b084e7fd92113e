"""One evaluation for student, expert and endpoint: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.evaluate import folder_of, translated
from experiments.pipeline.evaluate import alone, refuse_in_a_run
from experiments.report import write_evaluation
from experiments.report.__main__ import _write
from experiments.report.publish import count_failures
from experiments.results import evaluation
from experiments.results.statistics import rate
from experiments.runs import predictions
from experiments.runs.naming import affecting
from swe_gym_env.commands.predictions import read as read_predictions
from swe_gym_env.disk import read_json
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.budget import Prices, Spent
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.types import Episode, Outcome, TaskInstance, Turn
from tests.experiments.conftest import Job
from tests.experiments.sample_run import write_lines
from tests.experiments.test_configuration import configuration
from tests.policies.test_server import Model
from tests.policies.test_server import model as model
from tests.support.toy_tasks import FINISH, FIX

EVALUATE = "experiments.evaluate"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_checkpoint_is_measured_alone_and_by_the_same_measure(job: Job) -> None:
    printed = job.run(module=EVALUATE)
    assert "By repository" in printed and "toy/calc" in printed
    folder = job.folder("evaluation-smollm2-*")
    measured = read_json(folder / "metrics.json")
    assert (measured["n"], measured["infra_errors"], measured["samples"]) == (3, 0, None)
    expected = rate(measured["resolved"], 3)
    assert (measured["low"], measured["high"]) == (expected.low, expected.high)
    assert measured["generated_tokens"] == measured["sampled_tokens"] > 0


@pytest.mark.timeout(900)
def test_samples_of_the_expert_go_on_where_they_were_stopped(job: Job) -> None:
    asked = ("evaluation.who=teacher", "evaluation.samples=2", "--limit", "2")
    printed = job.run(*asked, module=EVALUATE)
    assert "pass@2" in printed and "100.0%" in printed
    folder = job.folder("evaluation-expert-*")
    measured = read_json(folder / "metrics.json")
    assert (measured["tasks"], measured["resolved"], measured["n"]) == (2, 4, 4)
    assert measured["pass_at"]["2"]["mean"] == measured["submission_rate"] == 1.0
    assert (measured["model"], measured["cost"]) == ("expert", None)
    assert len(rows(folder / "tasks.csv")) == 4
    assert "By difficulty" in (folder / "report.html").read_text("utf-8")
    assert rows(folder / "evaluation.csv")[0]["rate"] == "1.0"
    for number in (1, 2):
        patches = read_predictions(folder / f"preds-{number}.jsonl")
        assert len(patches) == 2 and all("return a + b" in patch for patch in patches.values())

    (folder / "evaluate.done").unlink()
    episodes = (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(episodes[:3]) + episodes[3][:50])  # kill -9
    job.run(*asked, module=EVALUATE)
    assert (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)[:3] == episodes[:3]
    again = read_json(folder / "metrics.json")
    timed = {"mean_seconds", "calls", "generated_tokens"}  # what was lost was paid for
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in measured.items() if k not in timed
    }


def test_an_endpoint_is_measured_as_it_writes_and_paid_for(job: Job, model: Model) -> None:
    output = ["I think so.", FIX, FINISH]

    def answer(body: dict[str, Any], _: int) -> tuple[int, bytes]:
        text = output[sum(message["role"] == "assistant" for message in body["messages"])]
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10}
        return 200, json.dumps({"choices": [{"message": message}], "usage": usage}).encode()

    model.answer = answer
    server = ("teacher=server", f"teacher.base_url={model.url}", "teacher.model=small")
    # also where it is not among the first ones
    asked = (*server, "evaluation.who=teacher", "evaluation.tasks=1", "--task", "calc-9")
    prices = ("teacher.prices.prompt=2", "teacher.prices.generated=5")
    job.run(*asked, *prices, module=EVALUATE)
    measured = read_json(job.folder("evaluation-server-*") / "metrics.json")
    assert (measured["model"], measured["resolved"], measured["n"]) == ("small", 1, 1)
    assert measured["format_error_rate"] == pytest.approx(1 / 3)
    assert (measured["calls"], measured["prompt_tokens"]) == (3, 3000)
    assert measured["cost"] == pytest.approx((3000 * 2 + 30 * 5) / 1e6)
    assert {body["temperature"] for body in model.requests} == {0.0}, "greedy"
    printed = job.run(*asked, *prices, "teacher.base_url=http://127.0.0.1:9/v1", module=EVALUATE)
    assert "toy/calc" in printed, "another address is the same evaluation, and it is done"
    few = ("evaluation.who=teacher", "evaluation.tasks=1")
    unknown = job.run(*few, "--task", "calc-99", module=EVALUATE, code=2)
    assert "no task calc-99" in unknown and "Traceback" not in unknown


def task(name: str, repo: str, difficulty: object = None) -> TaskInstance:
    about = {"difficulty": difficulty} if difficulty else {}
    return TaskInstance(name, repo, "", "", "", "", "", (), (), "", metadata=about)


def episode(name: str, repeat: int, status: str, stop: str = "finished") -> Episode:
    turns = (Turn("", "student", "x", None, (1, 2, 3)), Turn("", "student", "y", None, (4,)))
    outcome = Outcome(status, mask=status == "infra_error")  # type: ignore[arg-type]
    return Episode(f"{name}/{repeat}", name, 0, 0, repeat, "", turns, outcome, stop, patch="p")


def test_the_measures_of_counted_episodes() -> None:
    tasks = [
        task("a-1", "a/a", "1-4 hours"),
        task("a-2", "a/a", "<15 min fix"),
        task("b-1", "b/b", {"bugs": 1, "distance": 2}),
    ]
    played = [
        episode("a-1", 0, "resolved"),
        episode("a-1", 1, "unresolved"),
        episode("a-2", 0, "empty_patch", "max_turns"),
        episode("a-2", 1, "unresolved"),
        episode("b-1", 0, "resolved"),
        episode("b-1", 1, "infra_error"),
    ]
    found = evaluation.measure(played, tasks, Spent(10, 2_000_000, 500_000), Prices(3.0, 8.0))
    assert (found["resolved"], found["n"], found["infra_errors"]) == (2, 5, 1)
    assert (found["submission_rate"], found["empty_patch_rate"]) == (0.8, 0.2)
    assert found["pass_at"]["1"]["mean"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["rate"] == found["pass_at"]["1"]["mean"], "and its interval is of that"
    assert found["pass_at"]["2"]["mean"] == pytest.approx((1 + 0) / 2), "b-1 has one sample"
    assert found["cost"] == pytest.approx(2 * 3 + 0.5 * 8)
    shares = {row["group"]: (row["resolved"], row["n"]) for row in found["by_repository"]}
    assert shares == {"a/a": (1, 4), "b/b": (1, 1)}
    groups = [row["group"] for row in found["by_difficulty"]]
    assert groups == ["bug 2 calls away", "<15 min fix", "1-4 hours"]
    closing, repositories, _ = evaluation.tables(found)
    assert dict(zip(closing.columns, closing.rows[0], strict=True))["pass@2"] == 0.5
    assert [row[0] for row in repositories.rows] == ["a/a", "b/b"]


@pytest.mark.e2e
def test_its_page_has_the_tables_and_the_kinds_of_failure(tmp_path: Path) -> None:
    tasks = [task("a-1", "a/a", "1-4 hours"), task("b-1", "b/b", "<15 min fix")]
    played = RoundFolder(tmp_path / "evaluation-small-1")
    ended = [episode("a-1", 0, "resolved"), episode("b-1", 0, "empty_patch", "max_repeats")]
    write_lines(played.path / "episodes.jsonl", ended)
    (played.path / "config.yaml").write_text("seed: 0\n")
    unfinished = write_evaluation(played.path).read_text("utf-8")
    assert "Not finished: 2 episodes so far" in unfinished and "Not measured yet" not in unfinished

    played.add_metrics(model="small", split="test", **evaluation.measure(played.episodes(), tasks))
    played.mark_done("evaluate")
    count_failures(played.path, tasks)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", str(played.path)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip()).read_text("utf-8")
    assert "50 % of 2 tasks resolved" in page and "episodes.html" in page
    kinds = {row["kind"]: row["episodes"] for row in rows(played.path / "tables/failures.csv")}
    assert kinds == {"resolved": "1", "loop": "1"}
    assert [row["difficulty"] for row in rows(played.path / "tables/difficulty.csv")] == [
        "<15 min fix",
        "1-4 hours",
    ]
    other = shutil.copytree(played.path, tmp_path / "evaluation-other-1")
    with pytest.raises(SetupError, match=r"experiments\.compare"):
        _write([played.path, other], None, None)


def test_a_prediction_for_each_task_and_a_file_for_each_sample(tmp_path: Path) -> None:
    folder = tmp_path / "dagger-1" / "evaluations" / "round_003"
    folder.mkdir(parents=True)
    (one,) = predictions.write(
        folder, [episode("a", 0, "resolved"), episode("b", 0, "infra_error")]
    )
    (row,) = [json.loads(line) for line in one.read_text().splitlines()]
    assert row == {
        "instance_id": "a",
        "model_name_or_path": "dagger-1-round_003",
        "model_patch": "p",
    }


def test_swe_bench_rows_keep_their_difficulty(shared_data: Path) -> None:
    with (shared_data / "swebench_verified.jsonl").open() as file:
        row = json.loads(file.readline())
    made = {**row, "image": "i", "eval_script": "true", "metadata": {"build": "sdist"}}
    assert from_row(made).metadata == {"build": "sdist", "difficulty": row["difficulty"]}


def test_limit_and_task_are_overrides_by_another_name() -> None:
    words = ["--limit", "5", "model=smollm2", "--task", "a-1", "--cfg", "job", "--task=b=2"]
    overrides = ["evaluation.tasks=5", 'evaluation.ids=["a-1","b=2"]']
    assert translated(words) == ["model=smollm2", *overrides, "--cfg", "job"]
    assert translated(["--limit=5", "--cfg", "job"]) == [overrides[0], "--cfg", "job"]
    cfg = configuration(*overrides)
    assert (cfg.evaluation.tasks, list(cfg.evaluation.ids)) == (5, ["a-1", "b=2"])


@pytest.mark.slow
def test_what_cannot_be_measured_is_refused() -> None:
    for given, output in (
        (["evaluation.who=me"], "student or teacher"),
        (["evaluation.samples=0"], "1 or more"),
        (["evaluation.who=teacher", "teacher=hf"], "model.path=FOLDER"),
        (["evaluation.who=teacher", "teacher=server", "teacher.actions=xml"], "actions=xml"),
    ):
        with pytest.raises(SetupError, match=output):
            alone(configuration(*given))
    for given in (["evaluation.untrained=-1"], ["evaluation.untrained=few"]):
        with pytest.raises(SetupError, match=r"evaluation\.untrained.*how many of the tasks"):
            refuse_in_a_run(configuration(*given))
    for given in (["evaluation.who=teacher"], ["evaluation.samples=4"]):
        with pytest.raises(SetupError, match=r"experiments\.evaluate"):
            refuse_in_a_run(configuration(*given))


@pytest.mark.slow
def test_names_of_folders_depend_on_who_is_measured_and_not_on_where() -> None:
    assert set(affecting(configuration(), "result")["evaluation"]) == {
        "split",
        "tasks",
        "every_round",
    }
    server = ("evaluation.who=teacher", "teacher=server")
    one = folder_of(configuration(*server))
    assert one.path.name.startswith("evaluation-server-")
    assert folder_of(configuration(*server, "teacher.base_url=http://x/v1")).path == one.path
    assert folder_of(configuration(*server, "teacher.model=other")).path != one.path
