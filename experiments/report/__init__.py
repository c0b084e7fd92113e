"""One self-contained HTML page for a run: the claim, the curves, and every episode to read.

A table can hide that a student games its tests or is saved by a lucky format; the episodes cannot.
The page needs no server, no network and no file beside it, so that it can be sent to a reviewer.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.report import charts
from experiments.report.data import RoundData, RunData, endings, read_run, reader_rows

__all__ = ["write_report"]

HERE = Path(__file__).parent
CLAIM = 50  # tasks below which the page claims nothing
VERSIONS = ("torch", "transformers", "accelerate", "gymnasium", "swe-gym-env")


def write_report(run_folder: Path) -> Path:
    """Writes ``report.html`` into ``run_folder`` and returns its path."""
    folder = Path(run_folder).resolve()
    run = read_run(folder)
    env = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    html = env.get_template("page.html.j2").render(
        name=folder.name,
        run=run,
        verdict=_verdict(run),
        figures=_figures(run),
        phases=_phases(run.phases),
        total=sum(run.phases.values()),
        rounds=[_round_row(part) for part in run.rounds],
        endings=endings(run),
        masked=sum(e.outcome.mask for row in run.evaluations for e in row.episodes),
        facts=_facts(run),
        episodes=_embedded(reader_rows(run)),
        css=Markup("".join((HERE / f"{part}.css").read_text() for part in ("palette", "page"))),
        js=Markup((HERE / "page.js").read_text("utf-8")),
        interval=charts.interval,
        pc=lambda share: f"{share * 100:.1f} %",
        pc0=lambda share: "–" if share is None else f"{share * 100:.0f} %",
        p_value=p_value,
        clock=clock,
    )
    path = folder / "report.html"
    aside = path.with_name(".report.html")
    aside.write_text(html, "utf-8")
    aside.replace(path)
    return path


def _embedded(rows: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever an episode printed."""
    text = json.dumps(rows, separators=(",", ":"))  # ASCII: lone surrogates and U+2028 escaped too
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def p_value(p: float) -> str:
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{digits}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _verdict(run: RunData) -> dict[str, str]:
    """The page's headline: numbers first, and no claim where there is none."""
    if not run.evaluations:
        return {"head": "Not measured yet", "lead": "This run has not reached an evaluation."}
    first, last = run.evaluations[0], run.evaluations[-1]
    head = f"{last.rate.rate * 100:.0f} % of {last.rate.n} held-out tasks resolved"
    if last.against is None:
        return {"head": head, "lead": f"Measured so far: {first.name}."}
    head += f", {first.rate.rate * 100:.0f} % before training"
    test = last.against
    lead = (
        f"{last.name[:1].upper()}{last.name[1:]}, against the {first.name} on the same {test.n} "
        f"tasks: {test.gained} gained, {test.lost} lost, exact McNemar p = {p_value(test.p)}."
    )
    if test.n < CLAIM:
        lead += f" Fewer than {CLAIM} tasks: this run makes no claim."
    elif test.p >= 0.05:
        lead += " That is no evidence of a difference."
    return {"head": head, "lead": lead}


def _figures(run: RunData) -> list[dict[str, Any]]:
    figures = [_resolve_figure(run), _share_figure(run), _loss_figure(run)]
    return [figure for figure in figures if figure]


def _resolve_figure(run: RunData) -> dict[str, Any] | None:
    if len(run.evaluations) < 2:
        return None
    points, words = [], []
    for x, row in enumerate(run.evaluations):
        r = row.rate
        tip = f"{row.name}: {r}, {r.resolved} of {r.n}"
        points.append(charts.Point(x, r.rate, tip, r.low, r.high))
        words.append((float(x), row.name.removesuffix(" student").removeprefix("after ")))
    top = max(row.rate.high for row in run.evaluations)
    title = "Held-out tasks resolved"
    svg = charts.chart(
        [charts.Line(points, "student")], words, title=title, top=min(top, 1.0), as_percent=True
    )
    return {"title": title, "svg": svg, "legend": [("student", "with 95 % interval")]}


def _share_figure(run: RunData) -> dict[str, Any] | None:
    planned, realised = [], []
    for part in run.rounds:
        if (plan := part.metrics.get("planned_teacher_share")) is not None:
            planned.append(charts.Point(part.index, plan, f"planned {plan:.0%}"))
        if (share := part.teacher_share) is not None:
            realised.append(charts.Point(part.index, share, f"realised {share:.0%}"))
    if not realised:
        return None
    title = "Turns the teacher took"
    lines = [charts.Line(realised, "teacher"), charts.Line(planned, "planned")]
    words = [(float(part.index), f"round {part.index}") for part in run.rounds]
    svg = charts.chart(lines, words, title=title, top=1.0, as_percent=True)
    keys = [("teacher", "realised"), ("planned", "planned")]
    return {"title": title, "svg": svg, "legend": keys}


def _loss_figure(run: RunData) -> dict[str, Any] | None:
    raw: list[charts.Point] = []
    mean: list[charts.Point] = []
    starts: list[tuple[int, int]] = []
    for part in run.rounds:
        losses = [float(loss) for loss in part.metrics.get("losses", ())]
        if not losses:
            continue
        start = len(raw)
        starts.append((start, part.index))
        means = charts.smoothed(losses, max(1, len(losses) // 12))
        for k, (loss, level) in enumerate(zip(losses, means, strict=True), start):
            raw.append(charts.Point(k, loss))
            mean.append(charts.Point(k, level))
    if len(raw) < 2:
        return None
    # the word where there is room for it, else the number alone
    ends = [start for start, _ in starts[1:]] + [len(raw)]
    wide = [end - start > 0.2 * len(raw) for (start, _), end in zip(starts, ends, strict=True)]
    words = [
        (float(start), f"round {n}" if room else str(n))
        for (start, n), room in zip(starts, wide, strict=True)
    ]
    title = "Training loss"
    lines = [charts.Line(raw, "faint", dots=False), charts.Line(mean, "student", dots=False)]
    svg = charts.chart(lines, words, title=title, top=max(point.y for point in raw))
    return {"title": title, "svg": svg, "legend": [("faint", "step"), ("student", "trailing mean")]}


def _phases(phases: Mapping[str, float]) -> list[tuple[str, float, float]]:
    longest = max(phases.values(), default=0.0) or 1.0
    return [(name, s, round(100 * s / longest, 1)) for name, s in phases.items()]


def _round_row(part: RoundData) -> dict[str, Any]:
    own = {(e.episode_id, k): t.text for e in part.episodes for k, t in enumerate(e.turns)}
    beside = {
        (a.episode_id, a.turn): a.text
        for a in part.annotations
        if a.text is not None and not a.executed and (a.episode_id, a.turn) in own
    }
    return {
        "index": part.index,
        "episodes": len(part.episodes),
        "resolved": sum(e.outcome.resolved for e in part.episodes),
        "planned": part.metrics.get("planned_teacher_share"),
        "realised": part.teacher_share,
        "labels": len(beside),
        "agree": sum(own[key] == text for key, text in beside.items()) / len(beside)
        if beside
        else None,
    }


def _facts(run: RunData) -> list[tuple[str, str]]:
    versions = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [
        ("run folder", run.folder.name),
        ("page written with", ", ".join(versions)),
        ("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
    ]
