"""Several evaluations side by side, each against the first, on the tasks that both have.

A method is a group of evaluations, one for each seed; a single evaluation is a group of one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.results import metrics
from experiments.results.evaluation import SHARES
from experiments.results.outcomes import DTYPE, ROWS, Outcomes
from experiments.results.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mcnemar,
    rate,
)
from experiments.results.tables import Cell, Table
from swe_gym_env.errors import SetupError


@dataclass(frozen=True)
class Group:
    """One method: its evaluations, one for each seed."""

    name: str
    members: Sequence[Outcomes]

    @property
    def stored(self) -> list[Outcomes]:
        """Those whose episodes are stored."""
        return [one for one in self.members if one.episodes is not None]

    @cached_property
    def ordered(self) -> list[Outcomes]:
        return sorted(self.members, key=lambda one: one.seed)

    @property
    def seeds(self) -> list[int]:
        return [one.seed for one in self.ordered]

    @property
    def shared(self) -> set[str]:
        """Tasks that all members have."""
        return set.intersection(*(set(one.resolved) for one in self.members))

    def matrix(self, tasks: Sequence[str]) -> np.ndarray:
        """Shares resolved, seeds x tasks; NaN where an infrastructure error ended the episode."""
        return np.array([[one.resolved[task] for task in tasks] for one in self.ordered])

    @property
    def binary(self) -> bool:
        return len(self.members) == 1 and not self.members[0].sampled


def rates(groups: Sequence[Group]) -> Table:
    """Each on all tasks that its seeds share."""
    rows: list[list[Cell]] = []
    for group in groups:
        tasks = sorted(group.shared)
        if not tasks or np.isnan(group.matrix(tasks)).all():
            raise SetupError(f"{group.name}: no episode without a fault, so nothing to compare")
        found = _rate(group, tasks)
        interval = (found.mean, found.low, found.high)
        rows.append([group.name, len(group.members), len(tasks), *interval, *_episodes(group)])
    shares = ("submitted", "empty patch", "bad format")
    columns = ["who", "seeds", "tasks", *SHARES, *shares, "turns", "tokens", "seconds", "cost"]
    return Table(
        "rates",
        "Side by side",
        columns,
        rows,
        "95 % intervals: Wilson of one greedy episode a task, else bootstrap of tasks (and seeds)",
        [*SHARES, *shares],
    )


def _episodes(group: Group) -> list[Cell]:
    """Measures that need the episodes; empty where some are missing."""
    if len(group.stored) < len(group.members):
        return [None] * 7
    valid = [episode for one in group.stored for episode in one.valid]
    own = metrics.of_episodes(valid)
    costs = [one.cost for one in group.stored if one.cost is not None]
    return [
        metrics.submission_rate(valid),
        own["empty_patches"] / len(valid),
        *(own[name] for name in ("format_error_rate", "mean_turns", "mean_tokens")),
        own["mean_seconds"],
        sum(costs) if len(costs) == len(group.members) else None,
    ]


def _rate(group: Group, tasks: Sequence[str]) -> Interval:
    if not group.binary:
        return bootstrap_mean(group.matrix(tasks))
    values = [share for share in group.members[0].resolved.values() if not np.isnan(share)]
    found = rate(int(sum(values)), len(values))
    return Interval(found.rate, found.low, found.high)


def differences(groups: Sequence[Group]) -> Table:
    """Each against the first, on the tasks that all evaluations of both have."""
    first, *others = groups
    rows: list[list[Cell]] = []
    for group in others:
        tasks = sorted(first.shared & group.shared)
        if not tasks:
            raise SetupError(f"{group.name} and {first.name} share no task: nothing to compare")
        found = bootstrap_difference(
            group.matrix(tasks), first.matrix(tasks), paired_seeds=paired(first, group)
        )
        pairs: list[Cell] = [None, None, None]
        if first.binary and group.binary:
            before, after = (
                {task: one.resolved[task] == 1 for task in tasks if one.resolved[task] in (0, 1)}
                for one in (first.members[0], group.members[0])
            )
            exact = mcnemar(before, after)
            pairs = [exact.gained, exact.lost, exact.p]
        rows.append([group.name, len(tasks), found.mean, found.low, found.high, found.p, *pairs])
    corrected = holm([float(row[5]) for row in rows])  # type: ignore[arg-type]
    rows = [[*row[:6], p, *row[6:]] for row, p in zip(rows, corrected, strict=True)]
    columns = ["who", "shared tasks", "difference", "low", "high", "p", "p (Holm)"]
    return Table(
        "differences",
        f"Against {first.name}, on the same tasks",
        [*columns, "gained", "lost", "p (McNemar)"],
        rows,
        "Paired bootstrap of tasks and seeds, 95 %; p (Holm): corrected for the number of rows; "
        "exact McNemar where both have one greedy episode a task",
        ["difference", "low", "high"],
    )


def paired(one: Group, other: Group) -> bool:
    """The same seeds, each once; two single evaluations are always a pair."""
    if len(one.members) == len(other.members) == 1:
        return True
    return one.seeds == other.seeds and len(set(one.seeds)) == len(one.seeds)


def by_seed(groups: Sequence[Group]) -> Table:
    """A row for each seed, a column for each method; a seed that one has twice has two rows."""
    rates: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for group in groups:
        times = Counter[int]()
        for one in group.ordered:
            share = float(np.nanmean(list(one.resolved.values())))
            rates[one.seed, times[one.seed]][group.name] = share
            times[one.seed] += 1
    names = [group.name for group in groups]
    rows = [[seed, *map(rates[seed, time].get, names)] for seed, time in sorted(rates)]
    return Table("seeds", "Resolved, by seed", ["seed", *names], rows, shares=names)


def warnings(groups: Sequence[Group]) -> list[str]:
    """Where the comparison is not of like with like."""
    first = groups[0]
    found = []
    for group in groups:
        if faults := sum(one.faults for one in group.members):
            found.append(f"{group.name}: {faults} episodes lost to faults, which count nowhere")
        for one in group.stored:
            if not one.finished:
                found.append(f"{group.name}: {one.path} is not finished")
            found += _differing(first, group, one)
        all_tasks = set.union(*(set(one.resolved) for one in (*first.members, *group.members)))
        if len(both := first.shared & group.shared) < len(all_tasks):
            found.append(
                f"{group.name} has {len(group.shared)} tasks, {first.name} {len(first.shared)}: "
                f"compared on the {len(both)} that are shared"
            )
        if group is not first and not paired(first, group):
            found.append(
                f"{group.name} has the seeds {group.seeds}, {first.name} {first.seeds}: not pairs, "
                "so that seeds are drawn for each apart"
            )
    return list(dict.fromkeys(found))


def _differing(first: Group, group: Group, one: Outcomes) -> list[str]:
    here, there = one.settings, next((other.settings for other in first.stored), {})
    if not (here and there):
        return [f"{group.name}: no config.yaml, so that limits could not be compared"]
    unknown = {ROWS} - (here.keys() & there.keys())  # of an older version
    return [
        f"{key} is {here.get(key)} for {group.name}, {there.get(key)} for {first.name}"
        for key in sorted((here.keys() | there.keys()) - unknown)
        if here.get(key) != there.get(key)
        and not (key == DTYPE and None in (here.get(key), there.get(key)))
    ]
