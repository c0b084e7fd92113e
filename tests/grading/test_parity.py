"""Our verdict and the official harness's, on one Docker image made of a task of our own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.benchmarks import official_eval
from experiments.benchmarks.verdict_parity import IDLE, compare
from experiments.runs import predictions
from swe_gym_env.grading import grade
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.tasks.pypi.build import build
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.types import Episode
from tests.support.toy_tasks import real_provider
from tests.tasks.tiny import own_store, tiny_package


@pytest.mark.network
@pytest.mark.docker
def test_the_official_harness_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_provider("docker")
    monkeypatch.setenv("SWE_GYM_HOME", str(own_store(tmp_path)))
    (row,) = build([tiny_package(tmp_path)], counts={"unseen": 1}, max_function_lines=9)[:1]
    seen = {verdict.patch: verdict for verdict in compare([from_row(row, "pypi")])}
    assert {name: verdict.official for name, verdict in seen.items()} == {
        "gold": True,
        "empty": False,
        "idle": False,
        "broken": False,
    }
    assert all(verdict.ours == verdict.official for verdict in seen.values())
    assert seen["empty"].status == "empty_patch"


@pytest.mark.network
@pytest.mark.docker
def test_the_official_command_takes_our_predictions_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = real_provider("docker")
    monkeypatch.setenv("SWE_GYM_HOME", str(own_store(tmp_path)))
    (row,) = build([tiny_package(tmp_path)], counts={"unseen": 1}, max_function_lines=9)[:1]
    task = from_row(row, "pypi")
    tasks = [replace(task, instance_id=f"{task.instance_id}-{n}") for n in range(3)]
    folder = RoundFolder(tmp_path / "evaluation")
    for one, patch in zip(tasks, (task.gold_patch, IDLE, ""), strict=True):
        outcome = grade(one, patch, sandbox)
        name = one.instance_id
        folder.append(
            Episode(f"{name}/0/0/0", name, 0, 0, 0, "", (), outcome, "finished", "", patch)
        )
    predictions.write(folder.path, folder.episodes())
    work = tmp_path / "work"
    work.mkdir()
    pairs = [(one.ours, one.official) for one in official_eval.compare(folder.path, tasks, work)]
    assert pairs == [(kind, kind) for kind in ("resolved", "unresolved", "empty_patch")]
