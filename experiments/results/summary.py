"""The closing table: what a run claims, with the number of tasks, intervals and paired tests.

Computed from the files of the run folder alone, so that a finished run can be printed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.results.statistics import mcnemar, rate
from experiments.runs.folders import RunFolder, read_json
from swe_gym_env.types import Episode

Verdicts = Mapping[str, Mapping[str, bool]]

UNTRAINED, ITERATION0 = "untrained", "iteration0"


def label(name: str) -> str:
    fixed = {UNTRAINED: "untrained student", ITERATION0: "SFT (iteration 0)"}
    return fixed.get(name) or f"after round {int(name.removeprefix('round_'))}"


def summarize(folder: RunFolder, names: Iterable[str], verdicts: Verdicts) -> dict[str, Any]:
    """``names`` in the order of training; ``verdicts[name]`` says per task whether it resolved."""
    names = list(names)
    evaluations = []
    for name in names:
        measured = rate(sum(verdicts[name].values()), len(verdicts[name]))
        row = {"name": name, "label": label(name), **asdict(measured), "rate": measured.rate}
        evaluations.append({**row, "metrics": folder.evaluation(name).metrics})
    last = names[-1]
    tests = [
        {"after": last, "before": before, **asdict(mcnemar(verdicts[before], verdicts[last]))}
        for before in names
        if before in (UNTRAINED, ITERATION0) and before != last
    ]
    rounds = sorted((folder.path / "rounds").glob("round_*/metrics.json"))
    return {
        "evaluations": evaluations,
        "tests": tests,
        "rounds": [read_json(path) for path in rounds],
        "phases": folder.phases,
    }


def verdicts_of(episodes: Iterable[Episode]) -> dict[str, bool]:
    """Infrastructure faults say nothing about the student and are left out."""
    return {e.instance_id: e.outcome.resolved for e in episodes if not e.outcome.mask}


def show(console: Console, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    title = "Held-out tasks, student alone, greedy"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    table.add_column("student", no_wrap=True)
    for column in ("resolved", "rate", "95 % interval", "bad format", "turns"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary["evaluations"]:
        metrics = row["metrics"] or {}
        table.add_row(
            row["label"],
            f"{row['resolved']} of {row['n']}",
            f"{row['rate']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{metrics.get('format_error_rate', 0):.0%}",
            f"{metrics.get('mean_turns', 0):.1f}",
        )
    console.print(table)
    if some := _of_fewer_tasks(summary["evaluations"]):
        console.print(some)
    for test in summary["tests"]:
        console.print(
            f"{label(test['after'])} against {label(test['before'])}, same {test['n']} tasks: "
            f"{test['gained']} gained, {test['lost']} lost, exact McNemar p = {test['p']:.2g}"
        )
    for metrics in summary["rounds"]:
        console.print(
            f"round {metrics['round']}: {metrics['episodes']} episodes, {metrics['resolved']} "
            f"resolved; teacher's share of turns {metrics['teacher_share']:.0%} realized, "
            f"{_percent(metrics['planned_teacher_share'])} planned"
        )
    times = ", ".join(f"{phase} {time_of(seconds)}" for phase, seconds in summary["phases"].items())
    console.print(f"wall time {time_of(sum(summary['phases'].values()))}: {times}")
    console.print(f"run folder: {folder.path}")
    console.print(f"report: {folder.path / 'report.html'}", style="bold")


def _of_fewer_tasks(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where not all were measured on the same number of tasks."""
    most = max(row["n"] for row in rows)
    fewer = [f"{row['label']} on {row['n']}" for row in rows if row["n"] < most]
    return f"measured on fewer than {most} tasks: {', '.join(fewer)}" if fewer else ""


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{share:.0%}"


def time_of(seconds: float) -> str:
    """For people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
