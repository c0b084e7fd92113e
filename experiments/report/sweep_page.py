"""The page of a comparison: methods as rows, seeds as points, and what each of them cost."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.report import charts, sweep_tables
from experiments.report.groups import (
    METHOD,
    SEED,
    Group,
    Member,
    grouped,
    runs_of_folders,
    runs_of_sweep,
)
from experiments.report.html import Figure, Page, Section, points
from experiments.report.run_page import (
    AXES,
    CLAIM,
    SHARES,
    analyzed,
    facts,
    rate_figures,
    write_all,
)
from experiments.results.tables import Table
from experiments.runs import sweep
from experiments.runs.reader import read_run
from swe_gym_env.errors import SetupError

FEW = 3  # seeds of each method below which the page claims nothing
TOGETHER = 2  # lines in one figure; more stand in small multiples


def write_comparison(folders: Sequence[Path], out: Path, baseline: str | None = None) -> Path:
    """Writes the page of a sweep folder, or of several run folders, into ``out``, with its PNG and
    CSV files, and returns its path. ``baseline`` is the label of a row, by default the first.
    SetupError where there is no such row."""
    out = Path(out).resolve()
    folders = [Path(folder).resolve() for folder in folders]
    if len(folders) == 1 and sweep.is_sweep(folders[0]):
        members = runs_of_sweep(folders[0])
        command = sweep.read(folders[0]).get("command", "")
    else:
        members, command = runs_of_folders(folders), ""
    out.mkdir(parents=True, exist_ok=True)
    every = grouped(members)
    groups = [group for group in every if group.runs]
    first = _baseline(groups, baseline)
    page = Page(
        name=out.name,
        kicker="Comparison",
        head=_head(every, members),
        lead=_lead(groups, first),
        sections=_sections(groups, first, every, out),
        facts=_facts(members, command),
        folded=[
            ("Runs", "\n".join(_line(one, out) for one in members)),
            *((f"Configuration: {g.label}, seed {g.seeds[0]}", g.runs[0].config) for g in groups),
        ],
    )
    return write_all(page, out)


def _baseline(groups: Sequence[Group], wanted: str | None) -> Group | None:
    if not groups:
        return None
    if wanted is None:
        return groups[0]
    for group in groups:
        if group.label == wanted:
            return group
    names = ", ".join(repr(group.label) for group in groups)
    raise SetupError(f"--baseline {wanted!r}: there is no such row; there are {names}")


def _head(groups: Sequence[Group], members: Sequence[Member]) -> str:
    counts = {len(group.runs) for group in groups}
    seeds = f"{max(counts)} seeds each" if len(counts) == 1 else f"up to {max(counts)} seeds"
    seeds = "one seed each" if max(counts) == 1 else seeds
    what = f"{len(groups)} methods" if len(groups) > 1 else "One method"
    done = sum(one.measured for one in members)
    head = f"{what}, {seeds}"
    return head if done == len(members) else f"{head}; {done} of {len(members)} runs finished"


def _lead(groups: Sequence[Group], first: Group | None) -> str:
    """What the comparisons say, in words, and where they say nothing."""
    if first is None:
        return "No run has finished yet."
    if len(groups) == 1:
        return f"{first.label} alone: there is nothing to compare it with."
    if min(len(group.runs) for group in groups) < FEW:
        return (
            f"A training seed moves these rates as a method does: with fewer than {FEW} seeds of "
            "each, this page makes no claim."
        )
    table = sweep_tables.against(groups, first)
    p = table.columns.index("p Holm" if "p Holm" in table.columns else "p")
    differing = [row for row in table.rows if float(row[p] or 0) < 0.05]
    tasks = len(sweep_tables.tasks_of(groups))
    lead = f"Against {first.label}, on {tasks} tasks: "
    if not differing:
        lead += "no difference that this many seeds and tasks can distinguish from chance."
    else:
        lead += "; ".join(
            f"{row[0]} {_points(row[2])} points ({_points(row[3])} to {_points(row[4])})"
            for row in differing
        )
        lead += (
            ". The other methods show no significant difference."
            if len(differing) < len(table.rows)
            else "."
        )
    if tasks < CLAIM:
        lead += f" Fewer than {CLAIM} tasks: this comparison makes no claim."
    return lead


def _points(share: object) -> str:
    assert isinstance(share, float)
    return points(share)


def _sections(
    groups: Sequence[Group], first: Group | None, every: Sequence[Group], out: Path
) -> list[Section]:
    found: list[Section] = []
    if first:
        result, curve = sweep_tables.methods(groups), sweep_tables.curves(groups)
        found.append(Section(result.title, result.note, result))
        forests = [Figure("Resolved; each small circle is a seed", _dots(groups, result), True)]
        if len(groups) > 1:
            table = sweep_tables.against(groups, first)
            found.append(Section(table.title, table.note, table))
            marks = [charts.Mark(str(r[0]), *map(float, r[2:5])) for r in table.rows]  # type: ignore[arg-type]
            forests.append(
                Figure(f"{table.title}, in points", charts.forest(marks, zero=True), True)
            )
        found.insert(1, Section(figures=forests))
        found += _on_the_way(groups, curve)
        found += _shares(groups)
        ended = sweep_tables.failures(groups) or sweep_tables.endings(groups)
        for table in (sweep_tables.costs(groups), ended):
            found.append(Section(table.title, table.note, table))
    if (gone := sweep_tables.absent(every)).rows:
        found.append(Section(gone.title, gone.note, gone))
    if first:
        table = sweep_tables.seeds(groups)
        found.append(Section("", table=table, kind="folded"))
    return found + [analyzed(table) for table in read_run(out).analysis]


def _dots(groups: Sequence[Group], result: Table) -> str:
    marks = []
    for group, row in zip(groups, result.rows, strict=True):
        dots = [run.measured[-1].rate.rate for run in group.runs]
        marks.append(charts.Mark(group.label, *map(float, row[3:6]), dots=dots))  # type: ignore[arg-type, misc]
    return charts.forest(marks)


def _on_the_way(groups: Sequence[Group], curve: Table) -> list[Section]:
    """One figure for each axis; with more lines than it can hold, one for each method."""
    if len({row[1] for row in curve.rows}) < 2:
        return []
    if len(groups) <= TOGETHER:
        figures = rate_figures(curve)
        return [
            Section(curve.title, curve.note, figures=figures),
            Section("", table=curve, kind="folded"),
        ]
    assert curve.curve
    high = curve.columns.index("high")
    top = max(float(row[high] or 0) for row in curve.rows)
    found = []
    for column, caption in AXES:
        at = curve.columns.index(column)
        if len({row[at] for row in curve.rows if row[at] is not None}) < 2:
            continue
        words = {-1.0: "", 0.0: "SFT"} if column == "round" else None
        drawn = replace(curve.curve, x=column)
        figures = [
            Figure(
                g.label, charts.curve(curve, drawn, only=g.label, words=words, top=top, width=220)
            )
            for g in groups
        ]
        title = f"Resolved, {(caption or 'By teacher calls').lower()}"
        note = curve.note if column == AXES[-1][0] else ""
        found.append(Section(title, note, figures=figures, small=True))
    return [*found, Section("", table=curve, kind="folded")]


def _shares(groups: Sequence[Group]) -> list[Section]:
    """A figure for each method."""
    table = sweep_tables.shares(groups)
    if len({row[1] for row in table.rows}) < 2:
        return []
    figures = []
    for group in groups:
        own = replace(table, rows=[row for row in table.rows if row[0] == group.label])
        if own.rows:
            svg = charts.curve(own, styles=SHARES, top=1.0, width=220)
            figures.append(Figure(group.label, svg))
    return [
        Section(table.title, table.note, figures=figures, small=True),
        Section("", table=table, kind="folded"),
    ]


def _facts(members: Sequence[Member], command: str) -> list[tuple[str, str]]:
    found = [("command", command)] if command else []
    versions = [run.versions[-1] for one in members if (run := one.run) and run.versions]
    if not versions:
        return found + facts(())
    distinct = {json.dumps({**one, "command": ""}, sort_keys=True): one for one in versions}
    if len(distinct) > 1:
        found.append(("note", f"the runs were made with {len(distinct)} different set-ups"))
    for one in distinct.values():
        found += [(k, v) for k, v in facts([one]) if k != "command"]
    return found


def _line(one: Member, out: Path) -> str:
    settings = [f"{k}={one.keys[k]}" for k in (*METHOD, SEED) if k in one.keys]
    line = f"{one.status:<12} {' '.join(settings):<34} {os.path.relpath(one.folder, out)}"
    made = one.run.versions if one.run else ()
    return f"{line}\n{'':<12} {made[-1]['command']}" if made else line
