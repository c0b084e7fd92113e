"""One run as tables: what its page shows, figure by figure, is also its CSV files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.analysis.failures import KINDS
from experiments.results.statistics import mcnemar
from experiments.results.tables import Cell, Curve, Table
from experiments.runs.reader import RoundData, RunData

INTERVAL = "low", "high"
# Columns of cost: what a round's metrics call it; of the teacher, the run's total so far
SPENT = {
    "teacher calls": "teacher_calls",
    "teacher prompt": "teacher_prompt_tokens",
    "generated": "teacher_generated_tokens",
    "scored": "teacher_scored_tokens",
    "money": "teacher_cost",
}
OWN = {"student tokens": "sampled_tokens", "trained": "trained_tokens"}
_SETS = {-1: "untrained", 0: "after iteration 0"}  # evaluations, as the analysis names them
COST = ("episodes", "turns", *SPENT, *OWN, "minutes")


def results(run: RunData) -> Table:
    rows = [
        (e.name, e.rate.resolved, e.rate.n, e.rate.rate, e.rate.low, e.rate.high)
        for e in run.evaluations
    ]
    lost = sum(e.outcome.mask for row in run.evaluations for e in row.episodes)
    note = "Held-out tasks, the student alone. 95 % Wilson intervals."
    if lost:
        note += f" {lost} episodes ended in an infrastructure fault and count nowhere."
    columns = ("student", "resolved", "tasks", "rate", *INTERVAL)
    curve = Curve("student", "rate", low="low", high="high", percent=True)
    return Table("results", "Result", columns, rows, note, ("rate", *INTERVAL), curve)


def paired(run: RunData) -> Table:
    """Each evaluation against those of the untrained student and of iteration 0."""
    rows = [
        (later.name, first.name, test.n, test.gained, test.lost, test.p)
        for k, later in enumerate(run.evaluations)
        for first in run.evaluations[:k]
        if first.round <= 0
        for test in [mcnemar(first.verdicts, later.verdicts)]
    ]
    note = "Tasks that only one of the two resolved, and the exact two-sided McNemar p."
    columns = ("student", "against", "tasks", "gained", "lost", "p")
    return Table("paired", "The same tasks", columns, rows, note)


def behavior(run: RunData) -> Table:
    rows = []
    for e in run.evaluations:
        m, n = e.metrics, e.rate.n
        submitted = m["stop_reasons"].get("finished", 0) / n
        rows.append(
            (
                e.name,
                submitted,
                m["empty_patches"] / n,
                m["format_error_rate"],
                m["mean_turns"],
                m["mean_tokens"],
                m["mean_seconds"],
            )
        )
    note = (
        "Submitted: episodes that the student ended itself. Malformed: turns without a valid "
        "action. Turns, tokens and seconds: means of an episode."
    )
    shares = ("submitted", "empty patch", "malformed")
    columns = ("student", *shares, "turns", "tokens", "seconds")
    return Table("behavior", "How the student works", columns, rows, note, shares)


def curve(run: RunData) -> Table:
    """Each evaluation, and what had been spent on training before it."""
    rows: list[Sequence[Cell]] = []
    for e in run.evaluations:
        before = [part for part in run.rounds if part.index <= e.round]
        calls = [part.metrics.get("teacher_calls") for part in before]
        known: Cell = 0 if e.round < 0 else calls[-1] if calls else None
        samples: Cell = (
            sum(len(part.episodes) for part in before) if before or e.round < 0 else None
        )
        spent = (e.round, samples, known)
        rows.append((e.name, *spent, e.rate.rate, e.rate.low, e.rate.high))
    note = (
        "Training episodes: collected up to then. Teacher calls: those for labels and for turns. "
        "Both with iteration 0."
    )
    columns = ("student", "round", "training episodes", "teacher calls", "rate", *INTERVAL)
    drawn = Curve("round", "rate", low="low", high="high", percent=True)
    return Table(
        "curve", "Held-out tasks resolved", columns, rows, note, ("rate", *INTERVAL), drawn
    )


def rounds(run: RunData) -> Table:
    rows = []
    for part in run.rounds:
        labels, agree = part.agreement
        resolved = sum(e.outcome.resolved for e in part.episodes)
        planned = part.metrics.get("planned_teacher_share")
        realized = (part.teacher_share, part.teacher_text)
        row = (part.index, len(part.episodes), resolved, planned, *realized, labels, agree)
        rows.append(row)
    note = (
        "Teacher's share of the executed turns, planned (beta) and realized, and of the characters "
        "in them. Labels: what the teacher said beside the student's turns. Agree: how many of "
        "those are the student's own turn, word for word."
    )
    shares = ("planned", "turns", "text")
    columns = ("round", "episodes", "resolved", *shares, "labels", "agree")
    return Table("rounds", "Rounds", columns, rows, note, (*shares, "agree"))


def shares(run: RunData) -> Table:
    """The two columns of :func:`rounds` as lines of one figure."""
    rows = [
        (part.index, name, share)
        for part in run.rounds
        for name, share in (
            ("planned", part.metrics.get("planned_teacher_share")),
            ("realized", part.teacher_share),
        )
        if share is not None
    ]
    drawn = Curve("round", "share", by="which", percent=True)
    columns = ("round", "which", "share")
    return Table("shares", "Turns the teacher took", columns, rows, curve=drawn)


def losses(run: RunData) -> Table:
    rows: list[Sequence[Cell]] = []
    for part in run.rounds:
        found = [float(loss) for loss in part.metrics.get("losses", ())]
        means = _smoothed(found, max(1, len(found) // 12))
        rows += [
            (len(rows) + k, part.index, *pair)
            for k, pair in enumerate(zip(found, means, strict=True))
        ]
    columns = ("step", "round", "loss", "trailing mean")
    return Table("losses", "Training loss", columns, rows)


def _smoothed(values: Sequence[float], window: int) -> list[float]:
    """A trailing mean, so that the curve shows no step before it happened."""
    out, total = [], 0.0
    for k, value in enumerate(values):
        total += value - (values[k - window] if k >= window else 0.0)
        out.append(total / min(k + 1, window))
    return out


def endings(run: RunData) -> Table:
    """How episodes of each evaluation ended: resolved first, then the commonest."""
    counts: dict[str, Counter[str]] = {}
    for evaluation in run.evaluations:
        for episode in evaluation.episodes:
            status = episode.outcome.status.replace("_", " ")
            stop = episode.stop_reason.replace("_", " ")
            kind = status if status == "resolved" else f"{status} · {stop}"
            counts.setdefault(kind, Counter())[evaluation.name] += 1
    order = sorted(counts, key=lambda kind: (kind != "resolved", -counts[kind].total()))
    names = [evaluation.name for evaluation in run.evaluations]
    rows = [(kind, *(counts[kind][name] or None for name in names)) for kind in order]
    note = "Episodes, by their outcome and why they ended."
    return Table("endings", "How episodes ended", ("ended", *names), rows, note)


def failures(run: RunData) -> Table | None:
    """Kinds of failure of each evaluation (``experiments/analysis/failures.py`` has the rules);
    None where they were not counted."""
    table = next((t for t in run.analysis if t.name == "failures"), None)
    if table is None:
        return None
    counts: dict[tuple[str, str], int] = {}
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        counts[str(cells["kind"]), str(cells["set"])] = int(cells["episodes"] or 0)
    sets = [_SETS.get(e.round, f"after round {e.round}") for e in run.evaluations]
    kinds = [kind for kind in KINDS if any((kind, name) in counts for name in sets)]
    rows = [(kind, *(counts.get((kind, name)) for name in sets)) for kind in kinds]
    columns = ("kind", *(evaluation.name for evaluation in run.evaluations))
    note = "Each episode is one kind, by the first rule that holds (docs/reference/analysis.md)."
    return Table("failure_kinds", "Failure kinds", columns, rows, note)


def time(run: RunData) -> Table:
    rows = [(name, seconds) for name, seconds in run.phases.items()]
    return Table("time", "Time", ("phase", "seconds"), rows)


def cost(run: RunData) -> Table:
    """What each round took, and all together."""
    rows: list[list[Any]] = []
    before: dict[str, Any] = {}
    for part in run.rounds:
        spent = []
        for name, key in SPENT.items():
            total = part.metrics.get(key)
            spent.append(None if total is None else total - before.get(name, 0))
            before[name] = total or before.get(name, 0)
        turns = sum(len(e.turns) for e in part.episodes)
        own = [part.metrics.get(key) for key in OWN.values()]
        rows.append([part.index, len(part.episodes), turns, *spent, *own, _minutes(run, part)])
    if len(rows) > 1:
        rows.append(["all", *(_sum(column) for column in list(zip(*rows, strict=True))[1:])])
    note = (
        "Teacher: calls, and tokens of prompts, generated and scored, money by teacher.prices. "
        "Student tokens: sampled while collecting. Trained: tokens computed in training, "
        "in all epochs. Minutes: collecting, scoring and training."
    )
    return Table("cost", "Cost of training", ("round", *COST), rows, note)


def _minutes(run: RunData, part: RoundData) -> float | None:
    name = f"round_{part.index:03d}"
    own = {f"{phase} {name}" for phase in ("collect", "score", "train")}
    return _sum([seconds / 60 for phase, seconds in run.phases.items() if phase in own])


def _sum(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
