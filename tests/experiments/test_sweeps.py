"""Sweeps by each of Hydra's launchers, as docs/cluster.md has them, on runs that take seconds."""

from __future__ import annotations

import json
import re

import pytest

from tests.experiments.conftest import ROOT, Job

TINY = (
    "evaluation.tasks=1",
    "iteration0.episodes=2",
    "episodes_per_round=2",
    "limits.max_turns=3",
)
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def example(launcher: str) -> list[str]:
    """The arguments of the page's example."""
    (line,) = re.findall(rf"experiments\.run -m (hydra/launcher={launcher} .*)", PAGE)
    return line.split()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("launcher", "methods"),
    [("joblib", ["sft", "dagger"]), ("submitit_local", ["sft"]), ("ray", ["sft"])],
)
def test_a_broken_cell_of_a_sweep_stops_no_other(
    job: Job, launcher: str, methods: list[str]
) -> None:
    words = example(launcher)
    words.remove("algorithm=sft,dagger")
    swept = ",".join(["opd", *methods])  # opd wants log-probs, which the expert does not give
    said = job.run(*words, f"algorithm={swept}", *TINY, "-m", code=1)
    assert "algorithm=opd needs the teacher's log-probs" in said
    assert "Traceback" not in said and "there is no" not in said
    for method in methods:
        claim = json.loads((job.folder(f"{method}-*") / "summary.json").read_text())
        assert claim["evaluations"][-1]["name"] == "round_001"
    assert len(list(job.runs.glob("iteration0-*"))) == 1, "made once: the others waited for it"
    assert not list(job.runs.glob("opd-*"))
