"""One run as tables: what its page shows, figure by figure, is also its CSV files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.analysis.failures import KINDS
from experiments.results import metrics
from experiments.results.statistics import mcnemar
from experiments.results.tables import Cell, Curve, Table
from experiments.runs.layout import round_name
from experiments.runs.reader import EpisodeSet, StoredRun

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
COST = ("episodes", "turns", *SPENT, *OWN, "minutes")


def results(run: StoredRun) -> Table:
    rows = [
        (e.label, e.rate.resolved, e.rate.n, e.rate.rate, e.rate.low, e.rate.high)
        for e in run.measured
    ]
    lost = sum(len(one.episodes) - len(one.valid) for one in run.measured)
    note = "Held-out tasks, the student alone. 95 % Wilson intervals."
    if lost:
        note += f" {lost} episodes ended in an infrastructure fault and count nowhere."
    columns = ("student", "resolved", "tasks", "rate", *INTERVAL)
    curve = Curve("student", "rate", low="low", high="high", percent=True)
    return Table("results", "Result", columns, rows, note, ("rate", *INTERVAL), curve)


def paired(run: StoredRun) -> Table:
    """Each evaluation against those of the untrained student and of iteration 0."""
    rows = [
        (later.label, first.label, test.n, test.gained, test.lost, test.p)
        for k, later in enumerate(run.measured)
        for first in run.measured[:k]
        if first.place <= 0
        for test in [mcnemar(first.verdicts, later.verdicts)]
    ]
    note = "Tasks that only one of the two resolved, and the exact two-sided McNemar p."
    columns = ("student", "against", "tasks", "gained", "lost", "p")
    return Table("paired", "The same tasks", columns, rows, note)


def behavior(run: StoredRun) -> Table:
    rows = []
    for e in run.measured:
        m = metrics.of_episodes(e.episodes)
        rows.append(
            (
                e.label,
                metrics.submission_rate(e.valid),
                metrics.shares(m["outcomes"]).get("empty_patch", 0.0),
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


def curve(run: StoredRun) -> Table:
    """Each evaluation, and what had been spent on training before it."""
    rows: list[Sequence[Cell]] = []
    for e in run.measured:
        before = [part for part in run.rounds if part.place <= e.place]
        calls = [part.metrics.get("teacher_calls") for part in before]
        known: Cell = 0 if e.place < 0 else calls[-1] if calls else None
        samples: Cell = (
            sum(len(part.episodes) for part in before) if before or e.place < 0 else None
        )
        spent = (e.place, samples, known)
        rows.append((e.label, *spent, e.rate.rate, e.rate.low, e.rate.high))
    note = (
        "Training episodes: collected up to then. Teacher calls: those for labels and for turns. "
        "Both with iteration 0."
    )
    columns = ("student", "round", "training episodes", "teacher calls", "rate", *INTERVAL)
    drawn = Curve("round", "rate", low="low", high="high", percent=True)
    return Table(
        "curve", "Held-out tasks resolved", columns, rows, note, ("rate", *INTERVAL), drawn
    )


def rounds(run: StoredRun) -> Table:
    rows = []
    for part in run.rounds:
        labels, agree = metrics.agreement(part.valid, part.annotations)
        resolved = sum(e.outcome.resolved for e in part.episodes)
        planned = part.metrics.get("planned_teacher_share")
        realized = metrics.teacher_share(part.valid), metrics.teacher_text_share(part.valid)
        row = (part.round, len(part.episodes), resolved, planned, *realized, labels, agree)
        rows.append(row)
    note = (
        "Teacher's share of the executed turns, planned (beta) and realized, and of the characters "
        "in them. Labels: the teacher's labels of the student's turns. Agree: how many of "
        "those are the student's own turn, word for word."
    )
    shares = ("planned", "turns", "text")
    columns = ("round", "episodes", "resolved", *shares, "labels", "agree")
    return Table("rounds", "Rounds", columns, rows, note, (*shares, "agree"))


def shares(run: StoredRun) -> Table:
    """The two columns of :func:`rounds` as lines of one figure."""
    rows = [
        (part.round, name, share)
        for part in run.rounds
        for name, share in (
            ("planned", part.metrics.get("planned_teacher_share")),
            ("realized", metrics.teacher_share(part.valid)),
        )
        if share is not None
    ]
    drawn = Curve("round", "share", by="which", percent=True)
    columns = ("round", "which", "share")
    return Table("shares", "Turns the teacher took", columns, rows, curve=drawn)


def losses(run: StoredRun) -> Table:
    rows: list[Sequence[Cell]] = []
    for part in run.rounds:
        found = [float(loss) for loss in part.metrics.get("losses", ())]
        means = _smoothed(found, max(1, len(found) // 12))
        rows += [
            (len(rows) + k, part.round, *pair)
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


def endings(evaluations: Sequence[EpisodeSet]) -> Table:
    """How the episodes of each evaluation ended: resolved first, then the commonest."""
    counts: dict[str, Counter[str]] = {}
    for evaluation in evaluations:
        for episode in evaluation.episodes:
            status = episode.outcome.status.replace("_", " ")
            stop = episode.stop_reason.replace("_", " ")
            kind = status if status == "resolved" else f"{status} · {stop}"
            counts.setdefault(kind, Counter())[evaluation.label] += 1
    order = sorted(counts, key=lambda kind: (kind != "resolved", -counts[kind].total()))
    names = [evaluation.label for evaluation in evaluations]
    rows = [(kind, *(counts[kind][name] or None for name in names)) for kind in order]
    note = "Episodes, by their outcome and why they ended."
    return Table("endings", "How episodes ended", ("ended", *names), rows, note)


def failures(analysis: Sequence[Table], evaluations: Sequence[EpisodeSet]) -> Table | None:
    """Kinds of failure of each evaluation (``experiments/analysis/failures.py`` has the rules);
    None where they were not counted."""
    table = next((t for t in analysis if t.name == "failures"), None)
    if table is None:
        return None
    counts: dict[tuple[str, str], int] = {}
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        counts[str(cells["kind"]), str(cells["set"])] = int(cells["episodes"] or 0)
    sets = [evaluation.name for evaluation in evaluations]  # as the analysis names them
    kinds = [kind for kind in KINDS if any((kind, name) in counts for name in sets)]
    rows = [(kind, *(counts.get((kind, name)) for name in sets)) for kind in kinds]
    columns = ("kind", *(evaluation.label for evaluation in evaluations))
    note = "Each episode is one kind, by the first rule that holds (docs/reference/analysis.md)."
    return Table("failure_kinds", "Failure kinds", columns, rows, note)


def time(run: StoredRun) -> Table:
    rows = [(name, seconds) for name, seconds in run.phases.items()]
    return Table("time", "Time", ("phase", "seconds"), rows)


def cost(run: StoredRun) -> Table:
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
        rows.append([part.round, len(part.episodes), turns, *spent, *own, _minutes(run, part)])
    if len(rows) > 1:
        rows.append(["all", *(_sum(column) for column in list(zip(*rows, strict=True))[1:])])
    note = (
        "Teacher: calls, and tokens of prompts, generated and scored, money by teacher.prices. "
        "Student tokens: sampled while collecting. Trained: tokens computed in training, "
        "in all epochs. Minutes: collecting, scoring and training."
    )
    return Table("cost", "Cost of training", ("round", *COST), rows, note)


def _minutes(run: StoredRun, part: EpisodeSet) -> float | None:
    name = round_name(part.place)
    own = {f"{phase} {name}" for phase in ("collect", "score", "train")}
    return _sum([seconds / 60 for phase, seconds in run.phases.items() if phase in own])


def _sum(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
