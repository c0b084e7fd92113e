"""The main job as real processes: it ends, it goes on after being killed, it is not repeated."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.experiments.conftest import Job


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text())


def test_a_run_leaves_a_table_a_report_and_readable_files(job: Job) -> None:
    printed = job.run()
    folder = job.folder()
    assert "untrained student" in printed and "after round 1" in printed and "McNemar" in printed
    assert str(folder / "report.html") in printed
    claim = read(folder / "summary.json")
    assert [row["name"] for row in claim["evaluations"]] == ["untrained", "iteration0", "round_001"]
    assert all(row["n"] == 3 for row in claim["evaluations"])
    assert {(test["before"], test["n"]) for test in claim["tests"]} == {
        ("untrained", 3),
        ("iteration0", 3),
    }
    planned = [round["planned_teacher_share"] for round in claim["rounds"]]
    assert planned[0] == 1.0 and claim["rounds"][0]["teacher_share"] == 1.0
    assert claim["rounds"][0]["resolved"] == 3, "the expert solves what it is shown"
    for index in range(2):
        assert (folder / "rounds" / f"round_{index:03d}" / "checkpoint" / "config.json").exists()
        measured = read(folder / "rounds" / f"round_{index:03d}" / "metrics.json")
        assert measured["losses"] and measured["prefix_breaks"] == 0
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "config.yaml").exists()
    assert not list(Path.cwd().glob("outputs")), "Hydra leaves nothing behind"

    again = job.run()  # finished: nothing is done twice, the table comes again
    assert "after round 1" in again and "collect" not in again.split("Held-out")[0]

    shared = job.folder("iteration0-*")
    before = (shared / "rounds/round_000/episodes.jsonl").stat().st_mtime_ns
    other = job.run("algorithm=sft", "evaluation.every_round=true")
    assert "after round 1" in other
    assert (shared / "rounds/round_000/episodes.jsonl").stat().st_mtime_ns == before
    assert job.folder("iteration0-*") == shared


def test_the_untrained_student_may_be_measured_on_fewer_tasks(job: Job) -> None:
    printed = job.run("algorithm=sft", "rounds=0", "evaluation.untrained=2")
    assert "measured on fewer than 3 tasks: untrained student on 2" in printed
    (claim,) = map(read, job.runs.glob("sft-*/summary.json"))
    assert [row["n"] for row in claim["evaluations"]] == [2, 3]
    assert [(test["before"], test["n"]) for test in claim["tests"]] == [("untrained", 2)]
    few = {path.parent for path in job.runs.glob("iteration0-*/evaluations/*/*/episodes.jsonl")}
    assert sorted(folder.name for folder in few) == ["iteration0", "untrained-2"]
    # all of them are another measurement beside it, of the same student and iteration 0
    both = job.run("algorithm=sft", "rounds=0")
    assert "fewer than" not in both and "round 0" not in both.split("Held-out")[0]
    every = job.folder("iteration0-*") / "evaluations/heldout-3"
    counts = {f.name: len((f / "episodes.jsonl").read_text().splitlines()) for f in every.iterdir()}
    assert counts == {"untrained-2": 2, "untrained": 3, "iteration0": 3}


@pytest.mark.parametrize(
    "until",
    ["iteration0-*/evaluations/*/untrained/episodes.jsonl", "dagger-*/rounds/*/episodes.jsonl"],
)
def test_a_killed_run_goes_on_where_it_stopped(job: Job, until: str) -> None:
    job.interrupted(until, 2, signal.SIGKILL)
    (cut,) = [path for path in job.runs.glob(until) if path.stat().st_size]
    kept = [json.loads(line) for line in cut.read_text().splitlines()[:2]]
    assert not list(job.runs.glob("*/summary.json"))
    job.run()
    episodes = [json.loads(line) for line in cut.read_text().splitlines()]
    ids = [episode["episode_id"] for episode in episodes]
    assert len(ids) == len(set(ids)) == 3
    assert episodes[:2] == kept, "what was there is not played again"
    assert read(job.folder() / "summary.json")["evaluations"][-1]["n"] == 3


def test_ctrl_c_says_how_to_go_on(job: Job) -> None:
    printed = job.interrupted(
        "iteration0-*/evaluations/*/untrained/episodes.jsonl", 1, signal.SIGINT
    )
    assert "Stopped" in printed and "python -m experiments.run" in printed
    assert "Traceback" not in printed


def test_two_processes_do_not_share_a_folder(job: Job) -> None:
    import fcntl

    job.interrupted("iteration0-*/evaluations/*/untrained/episodes.jsonl", 1, signal.SIGKILL)
    with (job.folder() / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "already working" in job.run(code=2)


@pytest.mark.timeout(900)
def test_the_embedded_model_learns_the_format_from_a_few_episodes(
    job: Job, smollm2: Path, tmp_path: Path
) -> None:
    store = tmp_path / "home" / "models"
    store.mkdir(parents=True)
    (store / smollm2.name).symlink_to(smollm2)
    real = ("model.path=smollm2", "model.dtype=auto", "sampling.max_new_tokens=64")
    job.run(*real, "iteration0.episodes=24", "training.batch_size=4", "beta=constant")
    claim = read(job.folder() / "summary.json")
    bad = [row["metrics"]["format_error_rate"] for row in claim["evaluations"]]
    # The untrained student's three greedy episodes nearly agree, and rounding decides some turns
    assert max(bad[1:]) < 0.5 and max(bad[1:]) <= bad[0] - 0.25
    losses = read(job.folder() / "rounds/round_000/metrics.json")["losses"]
    assert losses[-1] < losses[0] / 2
