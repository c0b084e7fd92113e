"""What the teacher was asked for, and what it brought.

Each row is a step from one evaluation to a later one on the same tasks: the cost is that of the
rounds between them, the gain the change in the resolve rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.results.outcomes import resolved_shares
from experiments.results.statistics import average, mcnemar, mean
from experiments.results.tables import Curve, Table
from experiments.runs.reader import EpisodeSet, StoredRun

SPENT = ("calls", "prompt_tokens", "generated_tokens", "scored_tokens", "cost")


def costs(run: StoredRun) -> dict[int, list[float | None]]:
    """Of each round: the teacher's executed turns, labels of the student's turns, and its calls,
    tokens and money as metrics.json has them; None where an older run does not say."""
    found: dict[int, list[float | None]] = {}
    before: Mapping[str, Any] | None = None
    for played in run.collected:
        turns = [turn for episode in played.episodes for turn in episode.turns]
        now = played.metrics
        before = {} if played.round == 0 else before
        taken = sum(turn.actor == "teacher" for turn in turns)
        asked = sum(label.text is not None and not label.executed for label in played.annotations)
        found[played.round or 0] = [taken, asked, *(_more(now, before, name) for name in SPENT)]
        before = now
    return found


def _more(now: Mapping[str, Any], before: Mapping[str, Any] | None, name: str) -> float | None:
    """The metrics count from the run's beginning."""
    key = f"teacher_{name}"
    if now.get(key) is None or before is None or (before and before.get(key) is None):
        return None
    return now[key] - before.get(key, 0)


def steps(run: StoredRun) -> Iterable[Row]:
    measured = [one for one in run.evaluations if one.round is not None and one.valid]
    if len(measured) < 2:
        raise NotMeasured("fewer than two evaluations of trained students")
    pairs = list(pairwise(measured))
    if len(measured) > 2:
        pairs.append((measured[0], measured[-1]))
    spent = costs(run)
    for one, other in pairs:
        between = [cost for number, cost in spent.items() if one.round < number <= other.round]  # type: ignore[operator]
        yield _step(one, other, between)


def _step(one: EpisodeSet, other: EpisodeSet, rounds: Sequence[Sequence[float | None]]) -> Row:
    first, last = resolved_shares(one.valid), resolved_shares(other.valid)
    shared = sorted(first.keys() & last.keys())
    if not shared:
        raise NotMeasured(f"{one.name} and {other.name} have no task in common")
    paid: list[float | None] = []
    for column in zip(*rounds, strict=True):
        known = [value for value in column if value is not None]
        paid.append(sum(known) if len(known) == len(column) else None)
    gain = mean([last[task] - first[task] for task in shared])
    whole = all(value in (0, 1) for value in (*first.values(), *last.values()))
    paired = mcnemar(_bools(first), _bools(last)).p if whole else None
    calls = paid[2] if paid else None
    per = None if not calls or gain[0] is None else 1000 * gain[0] / calls
    before, after = average([first[t] for t in shared]), average([last[t] for t in shared])
    head = (one.name, other.name, other.round, len(shared))
    return (*head, *(paid or [None] * (2 + len(SPENT))), before, after, *gain, paired, per)


def _bools(rates: Mapping[str, float]) -> dict[str, bool]:
    return {task: bool(value) for task, value in rates.items()}


COST = Measure(
    Table(
        "teacher_cost",
        "What the teacher cost from one evaluation to the next, and what was gained",
        (
            *("from", "to", "round", "tasks", "teacher_turns", "labels_asked"),
            *(f"teacher_{name}" for name in SPENT),
            *("rate_before", "rate_after", "gain", "low", "high", "p", "gain_per_1000_calls"),
        ),
        (),
        "Costs of the rounds between the two evaluations. teacher_turns: turns that it executed; "
        "labels_asked: labels of the student's turns; calls, tokens and cost (by "
        "teacher.prices) as the run's accounting has them (scores count as tokens, not as calls). "
        "gain: difference of the resolve rates on the same tasks, with the bootstrap interval "
        "over tasks; p: exact McNemar.",
        ("rate_before", "rate_after", "gain", "low", "high", "gain_per_1000_calls"),
        Curve("teacher_calls", "gain", "run", "low", "high", percent=True),
    ),
    steps,
)
