"""The closing table of a run on the terminal, from its summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.console.progress import time_of


def show(console: Console, summary: Mapping[str, Any], folder: Path, page: Path) -> None:
    """``summary`` is that of the run in ``folder``, ``page`` its report."""
    labels = {row["name"]: row["label"] for row in summary["evaluations"]}
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
            f"{labels[test['after']]} against {labels[test['before']]}, same {test['n']} tasks: "
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
    console.print(f"run folder: {folder}")
    console.print(f"report: {page}", style="bold")


def _of_fewer_tasks(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where not all were measured on the same number of tasks."""
    most = max(row["n"] for row in rows)
    fewer = [f"{row['label']} on {row['n']}" for row in rows if row["n"] < most]
    return f"measured on fewer than {most} tasks: {', '.join(fewer)}" if fewer else ""


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{share:.0%}"
