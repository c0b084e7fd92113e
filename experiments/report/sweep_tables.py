"""Methods against each other, over seeds and tasks: the tables of a sweep's page.

Rates and differences come from ``experiments/results/statistics.py``; here is only which runs go
in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.failures import KINDS
from experiments.report import run_tables
from experiments.report.groups import Group
from experiments.results import metrics
from experiments.results.statistics import (
    Interval,
    average,
    bootstrap_difference,
    bootstrap_mean,
    holm,
)
from experiments.results.tables import Cell as Value
from experiments.results.tables import Curve, Table
from experiments.runs.reader import EpisodeSet, StoredRun

INTERVAL = "low", "high"


def _last(run: StoredRun) -> EpisodeSet:
    return run.measured[-1]


def matrix(evaluations: Sequence[EpisodeSet], tasks: Sequence[str]) -> NDArray[np.float64]:
    """Seeds x tasks: 1 where the task was resolved, NaN where it was not measured."""
    return np.array([[float(e.verdicts.get(t, np.nan)) for t in tasks] for e in evaluations])


def tasks_of(groups: Sequence[Group]) -> list[str]:
    return sorted({task for g in groups for run in g.runs for task in _last(run).verdicts})


def rates(groups: Sequence[Group]) -> list[Interval]:
    tasks = tasks_of(groups)
    return [bootstrap_mean(matrix([_last(run) for run in g.runs], tasks)) for g in groups]


def differences(groups: Sequence[Group], baseline: Group) -> list[Interval | None]:
    """Of each group from ``baseline``, None for itself. With the same seeds they are paired."""
    tasks = tasks_of(groups)
    before = matrix([_last(run) for run in baseline.runs], tasks)
    found: list[Interval | None] = []
    for group in groups:
        if group is baseline:
            found.append(None)
            continue
        after = matrix([_last(run) for run in group.runs], tasks)
        paired = group.seeds == baseline.seeds
        found.append(bootstrap_difference(after, before, paired_seeds=paired))
    return found


def methods(groups: Sequence[Group]) -> Table:
    rows: list[Sequence[Value]] = []
    for group, mean in zip(groups, rates(groups), strict=True):
        runs = group.runs
        seeds = [_last(run).rate.rate for run in runs]
        tasks = len({task for run in runs for task in _last(run).verdicts})
        ends = (min(seeds), max(seeds))
        rows.append((group.label, len(runs), tasks, mean.mean, mean.low, mean.high, *ends))
    note = "The last evaluation of each run: held-out tasks, the student alone. 95 % bootstrap "
    note += "intervals over seeds and tasks; worst and best are single seeds."
    if any(len(group.runs) == 1 for group in groups):
        note += " With one seed the interval says nothing about other seeds."
    shares = ("resolved", *INTERVAL, "worst", "best")
    columns = ("method", "seeds", "tasks", *shares)
    drawn = Curve("method", "resolved", low="low", high="high", percent=True)
    return Table("methods", "Result", columns, rows, note, shares, drawn)


def against(groups: Sequence[Group], baseline: Group) -> Table:
    """Differences; with more than one of them, p is corrected as well."""
    found = [
        (group, one)
        for group, one in zip(groups, differences(groups, baseline), strict=True)
        if one is not None
    ]
    corrected = holm([one.p or 0.0 for _, one in found]) if len(found) > 1 else []
    rows = []
    for place, (group, one) in enumerate(found):
        how = "the same" if group.seeds == baseline.seeds else "others"
        row = (group.label, how, one.mean, one.low, one.high, one.p)
        rows.append((*row, corrected[place]) if corrected else row)
    note = (
        "What the method resolved minus what the baseline did, in percentage points, with the 95 % "
        "bootstrap interval over seeds and tasks; seeds are paired where both have the same."
    )
    if corrected:
        note += f" p Holm: corrected for {len(found)} comparisons."
    columns = ("method", "seeds", "difference", "low", "high", "p")
    title = f"Difference from {baseline.label}"
    drawn = Curve("method", "difference", low="low", high="high", percent=True)
    names = (*columns, "p Holm") if corrected else columns
    shares = ("difference", *INTERVAL)
    return Table("differences", title, names, rows, note, shares, drawn)


def curves(groups: Sequence[Group]) -> Table:
    """Each method at each evaluation, over its seeds; x values are means over them."""
    tasks = tasks_of(groups)
    rows: list[Sequence[Value]] = []
    for group in groups:
        tables = [{int(r[1] or 0): r for r in run_tables.curve(run).rows} for run in group.runs]
        for place in sorted({place for table in tables for place in table}):
            own = [table[place] for table in tables if place in table]
            runs = [e for run in group.runs for e in run.measured if e.place == place]
            at = [_mean([row[k] for row in own]) for k in (2, 3)]
            every = sorted({*tasks, *(task for e in runs for task in e.verdicts)})
            mean = bootstrap_mean(matrix(runs, every))
            spent = (len(runs), *at, mean.mean, mean.low, mean.high)
            rows.append((group.label, place, *spent))
    columns = ("method", "round", "seeds", "training episodes", "teacher calls", "rate", *INTERVAL)
    note = (
        "Means over seeds with the intervals of the table above; the other methods stand faintly "
    )
    note += (
        "behind each. Round -1 is the untrained student. Calls and episodes are with iteration 0."
    )
    drawn = Curve("round", "rate", "method", "low", "high", percent=True)
    return Table("curves", "On the way", columns, rows, note, ("rate", *INTERVAL), drawn)


def shares(groups: Sequence[Group]) -> Table:
    """The teacher's share of the executed turns, means over seeds: planned (beta) and realized."""
    found: dict[tuple[str, int, str], list[Value]] = {}
    for group in groups:
        for run in group.runs:
            for place, which, share in run_tables.shares(run).rows:
                found.setdefault((group.label, int(place or 0), str(which)), []).append(share)
    rows = [(*key, _mean(values)) for key, values in found.items()]
    note = "Means over seeds; round 0 is iteration 0. Planned: beta, where the method has one."
    columns = ("method", "round", "which", "share")
    drawn = Curve("round", "share", by="which", percent=True)
    return Table("shares", "Turns the teacher took", columns, rows, note, ("share",), drawn)


def costs(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        totals = []
        for run in group.runs:
            table = run_tables.cost(run)
            totals.append(table.rows[-1][1:] if table.rows else [None] * len(run_tables.COST))
        means = [_mean([total[k] for total in totals]) for k in range(len(run_tables.COST))]
        every = _mean([sum(run.phases.values()) / 60 for run in group.runs])
        rows.append((group.label, *means, every))
    note = (
        "Means over seeds, of all rounds with iteration 0. Turns: executed in the environment. "
        "Teacher: calls, and tokens of prompts, generated and scored. Trained: tokens in all "
        "epochs. Minutes: collecting, scoring and training; whole run: evaluations too."
    )
    columns = ("method", *run_tables.COST, "whole run")
    return Table("costs", "What it cost", columns, rows, note)


def seeds(groups: Sequence[Group]) -> Table:
    rows = [
        (group.label, seed, e.rate.resolved, e.rate.n, e.rate.rate, e.rate.low, e.rate.high)
        for group in groups
        for seed, run in zip(group.seeds, group.runs, strict=True)
        for e in [_last(run)]
    ]
    columns = ("method", "seed", "resolved", "tasks", "rate", *INTERVAL)
    drawn = Curve("seed", "rate", low="low", high="high", percent=True)
    note = "95 % Wilson intervals: over tasks alone."
    return Table("seeds", "Each run", columns, rows, note, ("rate", *INTERVAL), drawn)


def endings(groups: Sequence[Group]) -> Table:
    """Shares of the last evaluations' episodes, by outcome and why they ended."""
    counts = _counted(groups, lambda run: run_tables.endings([_last(run)]))
    total = sum(counts, Counter[str]())
    kinds = sorted(total, key=lambda kind: (kind != "resolved", -total[kind]))
    rows = _shares(counts, kinds)
    names = tuple(group.label for group in groups)
    note = "Share of the episodes of the last evaluations."
    return Table("endings", "How episodes ended", ("ended", *names), rows, note, names)


def failures(groups: Sequence[Group]) -> Table | None:
    """As :func:`endings`, by kinds of failure; None where some run has not counted them."""
    tables = [_failures(run) for group in groups for run in group.runs]
    if not all(table and table.rows for table in tables):
        return None
    counts = _counted(groups, _failures)
    rows = _shares(counts, [kind for kind in KINDS if any(c[kind] for c in counts)])
    names = tuple(group.label for group in groups)
    note = "Share of the episodes of the last evaluations, each counted as one kind."
    return Table("failure_kinds", "Failure kinds", ("kind", *names), rows, note, names)


def _counted(
    groups: Sequence[Group], of: Callable[[StoredRun], Table | None]
) -> list[Counter[str]]:
    """Of each group, the counts in the last column of its runs' tables, by the first."""
    counts = []
    for group in groups:
        found = Counter[str]()
        for run in group.runs:
            table = of(run)
            for kind, *_, n in table.rows if table else ():
                found[str(kind)] += int(n or 0)
        counts.append(found)
    return counts


def _failures(run: StoredRun) -> Table | None:
    return run_tables.failures(run.analysis, [_last(run)])


def _shares(counts: Sequence[Counter[str]], kinds: Sequence[str]) -> list[Sequence[Value]]:
    """A row for each kind, with its share in each group; None where it did not occur."""
    shares = [metrics.shares(+count) for count in counts]
    return [(kind, *(share.get(kind) for share in shares)) for kind in kinds]


def absent(groups: Sequence[Group]) -> Table:
    """Every run that gave no number, and why."""
    rows = [
        (group.label, one.seed, one.folder.name, one.status, _first_line(one.error))
        for group in groups
        for one in group.members
        if not one.measured
    ]
    columns = ("method", "seed", "run", "status", "error")
    return Table("absent", "Failed and missing", columns, rows, "They count nowhere above.")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _mean(values: Sequence[Value]) -> float | None:
    return average([float(value) for value in values if isinstance(value, int | float)])
