"""The page of one run: the claim, the curves behind it, what it cost and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.report import charts, html, run_tables
from experiments.report.contact_sheet import contact_sheet, write_png
from experiments.report.html import Figure, Page, Section
from experiments.results.statistics import mcnemar
from experiments.results.tables import Curve, Table
from experiments.runs import layout
from experiments.runs.folders import RunFolder
from experiments.runs.layout import UNTRAINED
from experiments.runs.reader import EpisodeSet, StoredRun, read_run
from swe_gym_env.disk import collection_paused

CLAIM = 50  # tasks below which the page claims nothing
AXES = (("round", "By round"), ("training episodes", "By training episodes"), ("teacher calls", ""))
SHARES = {"planned": charts.Style("dim", dashed=True), "realized": charts.Style("teacher")}
LOSSES = {"step": charts.Style("dim", faint=True), "trailing mean": charts.Style("student")}


@collection_paused()
def write_report(run_folder: Path) -> Path:
    """Writes ``report.html``, ``report.png`` and ``tables/*.csv`` into ``run_folder`` and returns
    the path of the page. Works on a run that was killed, and on an empty folder."""
    folder = Path(run_folder).resolve()
    run = read_run(folder)
    head, lead = _verdict(run.measured)
    sections = _sections(run)
    page = Page(
        name=folder.name,
        kicker="Run report",
        head=head,
        lead=lead,
        sections=sections,
        links=[(layout.EPISODES_PAGE, "Read the episodes")] if run.measured or run.rounds else [],
        facts=facts(run.versions),
        folded=[("Resolved configuration", run.config)] if run.config else [],
    )
    return write_all(page, folder)


def write_all(page: Page, folder: Path) -> Path:
    """The page, its figures in one PNG file, and its tables."""
    path = RunFolder(folder).report_page
    html.write(page, path)
    drawn = [(s.title, [(f.caption, f.svg) for f in s.figures]) for s in page.sections if s.figures]
    if drawn:
        write_png(contact_sheet(page.head, drawn), folder / layout.REPORT_FIGURES)
    tables = folder / layout.TABLES
    tables.mkdir(exist_ok=True)
    for section in page.sections:
        if section.table:
            section.table.write_csv(tables)
    return path


def _verdict(evaluations: Sequence[EpisodeSet]) -> tuple[str, str]:
    """The page's headline: numbers first, and no claim where there is none."""
    if not evaluations:
        return "Not measured yet", "This run has not reached an evaluation."
    first, last = evaluations[0], evaluations[-1]
    head = f"{last.rate.rate * 100:.0f} % of {last.rate.n} held-out tasks resolved"
    if first is last:
        return head, f"Measured so far: {first.label}."
    before = "before training" if first.key == UNTRAINED else f"by {first.label}"
    head += f", {first.rate.rate * 100:.0f} % {before}"
    tests = [(e, mcnemar(e.verdicts, last.verdicts)) for e in evaluations[:-1] if e.place <= 0]
    tested = [
        f"against the {e.label}: {t.gained} gained, {t.lost} lost, p = {html.p_value(t.p)}"
        for e, t in tests
    ]
    student = f"{last.label[:1].upper()}{last.label[1:]}"
    lead = f"{student}, on the same tasks {'; '.join(tested)} (McNemar)."
    nearest = tests[-1][1]
    if nearest.n < CLAIM:
        lead += f" Fewer than {CLAIM} tasks: this run makes no claim."
    elif nearest.p >= 0.05:
        lead += " The last is no evidence of a difference."
    return head, lead


def _sections(run: StoredRun) -> list[Section]:
    found: list[Section] = []
    if run.measured:
        result, curve = run_tables.results(run), run_tables.curve(run)
        found += [Section(result.title, result.note, result)]
        if len(run.measured) > 1:
            paired = run_tables.paired(run)
            found.append(Section(paired.title, paired.note, paired, half=True))
        behavior = run_tables.behavior(run)
        found.append(Section(behavior.title, behavior.note, behavior, half=bool(found[1:])))
        if len(run.measured) > 1:
            figures = rate_figures(curve)
            found.append(Section(curve.title, curve.note, curve, figures, kind="folded"))
    if training := _training_figures(run):
        found.append(Section("Training", figures=training))
    if run.rounds:
        rounds, cost = run_tables.rounds(run), run_tables.cost(run)
        found.append(Section(rounds.title, rounds.note, rounds))
        found.append(Section(cost.title, cost.note, cost))
    if run.measured:
        ended = run_tables.failures(run.analysis, run.measured) or run_tables.endings(run.measured)
        found.append(Section(ended.title, ended.note, ended, half=len(run.measured) <= 3))
    if run.phases:
        took = run_tables.time(run)
        title = f"Time, {html.clock(sum(run.phases.values()))} in all"
        found.append(Section(title, table=took, kind="bars", half=len(run.measured) <= 3))
    return found + [analyzed(table) for table in run.analysis if table.name != "failures"]


def rate_figures(curve: Table, names: Mapping[str, str] | None = None) -> list[Figure]:
    """The rate over rounds, training episodes and teacher calls."""
    assert curve.curve
    found = []
    for column, caption in AXES:
        at = curve.columns.index(column)
        if len({row[at] for row in curve.rows if row[at] is not None}) < 2:
            continue
        words = {-1.0: "untrained", 0.0: "SFT"} if column == "round" else None
        svg = charts.curve(curve, replace(curve.curve, x=column), words=words)
        found.append(Figure(caption or "By teacher calls", svg))
    return found


def _training_figures(run: StoredRun) -> list[Figure]:
    found = []
    shares, losses = run_tables.shares(run), run_tables.losses(run)
    if shares.rows:
        svg = charts.curve(shares, styles={n: SHARES[n] for n in SHARES}, top=1.0)
        found.append(Figure("Turns the teacher took", svg))
    if len(losses.rows) > 1:
        rows = [(row[0], name, row[2 + k]) for k, name in enumerate(LOSSES) for row in losses.rows]
        drawn = Curve("step", "loss", by="which")
        svg = charts.curve(
            Table("losses", "", ("step", "which", "loss"), rows, curve=drawn), styles=LOSSES
        )
        found.append(Figure("Training loss", svg))
    return found


def analyzed(table: Table) -> Section:
    """A table that another command measured."""
    figures = []
    if table.curve and table.rows:
        measured = {row[table.columns.index(table.curve.x)] for row in table.rows}
        if len(measured) > 1:
            figures = [Figure("", charts.curve(table))]
    return Section(table.title, table.note, table, figures)


def facts(versions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the run wrote when it began, and again where it went on with something else."""
    if not versions:
        return [("versions", "not recorded: this run was made before runs wrote versions.json")]
    found = []
    for place, one in enumerate(versions):
        when = "" if not place else f", start {place + 1}"
        packages = ", ".join(f"{name} {number}" for name, number in one["packages"].items())
        commit = one["commit"] or "no git checkout"
        changed = " with changes that are not committed" if one["changed"] else ""
        found += [
            (f"command{when}", one["command"]),
            (f"commit{when}", commit + changed),
            (f"versions{when}", f"Python {one['python']}, {packages}"),
            (f"machine{when}", one["machine"]),
        ]
    return found
