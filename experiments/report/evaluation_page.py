"""The page of a single evaluation: one model, the expert or an endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from experiments.report import html
from experiments.report.html import Page, Section
from experiments.report.run_page import analyzed, facts, write_all
from experiments.results import evaluation
from experiments.results.tables import Curve, Table
from experiments.runs.layout import EPISODES_PAGE
from experiments.runs.reader import EpisodeSet, StoredRun, read_run
from swe_gym_env.disk import collection_paused
from swe_gym_env.rollout.store import RoundFolder


@collection_paused()
def write_evaluation(folder: Path) -> Path:
    """Writes ``report.html`` and ``tables/*.csv`` into ``folder``. Returns the page's path.
    It says how far the evaluation came if that was killed."""
    run, stored = read_run(folder), EpisodeSet(folder.name, RoundFolder(folder))
    page = Page(
        name=folder.name,
        kicker="Evaluation",
        head=_head(stored),
        lead=_lead(stored),
        sections=_sections(run, stored) if stored.finished else [],
        links=[(EPISODES_PAGE, "Read the episodes")] if stored.finished else [],
        facts=facts(run.versions),
        folded=[("Resolved configuration", run.config)] if run.config else [],
    )
    return write_all(page, folder)


def _head(stored: EpisodeSet) -> str:
    if not stored.finished:
        return f"Not finished: {len(stored.episodes)} episodes so far"
    found = stored.metrics
    samples = f", {found['samples']} samples each" if found.get("samples") else ""
    return f"{found['rate'] * 100:.0f} % of {found['tasks']} tasks resolved{samples}"


def _lead(stored: EpisodeSet) -> str:
    if not stored.finished:
        return "The same command goes on with the episodes that are missing."
    found = stored.metrics
    who = found.get("checkpoint") or found.get("model") or "?"
    return (
        f"{found['resolved']} of {found['n']} episodes; 95 % interval {found['low'] * 100:.1f} to "
        f"{found['high'] * 100:.1f} %. Measured: {who}, split {found.get('split')}."
    )


def _sections(run: StoredRun, stored: EpisodeSet) -> list[Section]:
    closing, *groups = evaluation.tables(stored.metrics)
    kinds = [_kinds(table) for table in run.analysis if table.name == "failures"]
    found = [_upright(closing), *(_with_intervals(table, "rate") for table in groups), *kinds]
    others = [table for table in run.analysis if table.name != "failures"]
    return [*(Section(t.title, t.note, t) for t in found), *map(analyzed, others)]


def _upright(table: Table) -> Table:
    """One row of many columns is read from top to bottom."""
    rows = [
        (name, html.cell(value, name, table.shares))
        for name, value in zip(table.columns, table.rows[0], strict=True)
        if value is not None
    ]
    return Table(table.name, table.title, ("measure", "value"), rows, table.note)


def _with_intervals(table: Table, share: str) -> Table:
    return replace(table, curve=Curve(table.columns[0], share, low="low", high="high"))


def _kinds(table: Table) -> Table:
    columns = ("kind", "episodes", "of", "share", "low", "high")
    places = [table.columns.index(name) for name in columns]
    rows = [tuple(row[place] for place in places) for row in table.rows]
    shares = ("share", "low", "high")
    kinds = Table("failures", "Failure kinds", columns, rows, table.note, shares)
    return _with_intervals(kinds, "share")
