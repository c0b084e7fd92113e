"""The whole command on a Ray cluster (the roll-out alone: tests/rollout/test_ray.py)."""

from __future__ import annotations

import json
import signal

import pytest

from tests.experiments.conftest import Job
from tests.rollout.test_ray import Machines
from tests.rollout.test_ray import machines as machines


@pytest.mark.timeout(900)
def test_a_run_killed_in_mid_round_goes_on_with_what_is_missing(
    machines: Machines, job: Job
) -> None:
    """The whole command, with its model; killed, and given again."""
    words = ["cluster=ray", f"cluster.address={machines.cluster.address}", "cluster.memory_gb=0.1"]
    words += ["evaluation.tasks=2", "iteration0.episodes=6"]
    until = "iteration0-*/rounds/round_000/episodes.jsonl"
    job.interrupted(until, 2, signal.SIGKILL, *words)
    kept = next(iter(job.runs.glob(until))).read_text().splitlines()[:2]
    job.run(*words)
    rows = next(iter(job.runs.glob(until))).read_text().splitlines()
    assert rows[:2] == kept, "what was there is not played again"
    assert [json.loads(row)["outcome"]["status"] for row in rows] == ["resolved"] * 6
    assert len({json.loads(row)["episode_id"] for row in rows}) == 6
    claim = json.loads((job.folder() / "summary.json").read_text())
    assert [row["n"] for row in claim["evaluations"]] == [2, 2, 2]
    assert [row["metrics"]["infra_errors"] for row in claim["evaluations"]] == [0, 0, 0]
