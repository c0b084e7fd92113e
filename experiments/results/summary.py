"""The closing table: what a run claims, with the number of tasks, intervals and paired tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.results.statistics import mcnemar, rate
from swe_gym_env.types import Episode


@dataclass(frozen=True)
class Student:
    """One evaluation of a run.

    Attributes:
        name: The name of the evaluation's folder.
        label: What tables call the student.
        verdicts: By task, whether it was resolved.
        metrics: What the evaluation wrote into its metrics.json.
        baseline: Whether the last student is tested against this one.
    """

    name: str
    label: str
    verdicts: Mapping[str, bool]
    metrics: Mapping[str, Any]
    baseline: bool = False


def summarize(
    students: Sequence[Student],
    rounds: Sequence[Mapping[str, Any]],
    phases: Mapping[str, float],
) -> dict[str, Any]:
    """For summary.json.

    Args:
        students: In the order of training.
        rounds: The metrics of each round.
        phases: Seconds by the name of the phase.
    """
    evaluations = []
    for one in students:
        measured = rate(sum(one.verdicts.values()), len(one.verdicts))
        row = {"name": one.name, "label": one.label, **asdict(measured), "rate": measured.rate}
        evaluations.append({**row, "metrics": one.metrics})
    last = students[-1]
    tests = [
        {"after": last.name, "before": one.name, **asdict(mcnemar(one.verdicts, last.verdicts))}
        for one in students[:-1]
        if one.baseline
    ]
    return {"evaluations": evaluations, "tests": tests, "rounds": rounds, "phases": phases}


def verdicts_of(episodes: Iterable[Episode]) -> dict[str, bool]:
    """Infrastructure faults say nothing about the student and are left out."""
    return {e.instance_id: e.outcome.resolved for e in episodes if not e.outcome.mask}
