"""A run as it goes on, in a terminal: what is done, how fast, what came of it, and the last words.

It reads files alone, so it can be started before the run, left open while that is stopped and
started again, and watched over ssh.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.console.progress import clock, plain, speed_text
from experiments.console.progress import console as own_console
from experiments.results.statistics import rate
from experiments.runs import sweep
from experiments.runs.watch import Phase, Watch
from swe_gym_env.types import Episode

LINES = 14  # of the newest turn
STYLE = {"student": "blue", "teacher": "dark_orange3"}


def follow(folder: Path, console: Console | None = None, seconds: float = 1.0) -> None:
    """Shows the run in ``folder`` until it has ended, or until Ctrl-C."""
    console = console or own_console()
    watch = Watch(Path(folder).absolute())
    try:
        if console.is_terminal:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not watch.finished:
                    watch.look()
                    live.update(screen(watch, console.height), refresh=True)
                    time.sleep(seconds)
        else:
            _lines(watch, console, seconds)
    except KeyboardInterrupt:
        pass
    watch.look()
    console.print(screen(watch, 200))


def refuse_sweep(folder: Path) -> str:
    """What to say where ``folder`` is a sweep's, else nothing."""
    cells = sweep.cells(folder)
    if not cells:
        return ""
    named = [cell for cell in cells if cell["status"] == "running"] or cells
    runs = " ".join(str(folder.parent / cell["run"]) for cell in named[:3])
    return f"{folder} is a sweep: follow one of its runs, such as {runs}"


def _lines(watch: Watch, console: Console, seconds: float) -> None:
    """Where there is no terminal: a line for each episode."""
    while not watch.finished:
        for episode in watch.look():
            console.print(_episode(episode), soft_wrap=True)
        time.sleep(seconds)


def screen(watch: Watch, height: int) -> Group:
    """All of it, in about ``height`` lines."""
    head = Text.assemble((watch.run.name, "bold"), "  ", _state(watch))
    if not watch.phases:
        return Group(head)
    parts: list[Any] = [head, "", _table(watch, height)]
    if watch.latest:
        newest = list(reversed(watch.latest))[: 6 if height > 30 else 3]
        parts += ["", Text("latest episodes", style="dim")]
        parts += [_episode(episode) for episode in newest]
        parts += ["", _words(watch.latest[-1])]
    return Group(*parts)


def _state(watch: Watch) -> Text:
    if watch.finished:
        return Text("finished", style="green")
    if not watch.run.is_dir():
        return Text("is not there yet; waiting", style="dim")
    if (number := watch.process) is not None:
        return Text(f"running, process {number}", style="dim")
    return Text("no process of it runs on this machine; what is done is kept", style="yellow")


def _table(watch: Watch, height: int) -> Table:
    """One row for each phase; where there are too many for the screen, those around the current."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("phase", no_wrap=True)
    table.add_column("", width=14)
    for name in ("episodes", "rate", "time", "resolved", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    took = watch.took
    now = watch.under_way()
    room = max(6, height - LINES - 14)
    at = watch.phases.index(now[0]) if now else len(watch.phases)
    first = max(0, min(at - room // 2, len(watch.phases) - room))
    for phase in watch.phases[first : first + room]:
        table.add_row(*_row(watch, phase, phase in now, took))
    return table


def _row(watch: Watch, phase: Phase, now: bool, took: Mapping[str, float]) -> list[Any]:
    style = "bold" if now else "" if phase.done else "dim"
    title = Text(phase.title, style=style)
    spent = _clock(took.get(f"{phase.marker} {phase.folder.name}")) if phase.done else ""
    if not phase.plays:
        state = "done" if phase.done else "under way" if now else ""
        return [title, "", Text(state, style="dim"), "", spent, "", ""]
    tail = watch.tail(phase)
    count, total = len(tail.outcomes), max(phase.total, len(tail.outcomes))
    counted = [outcome for outcome in tail.outcomes.values() if not outcome.mask]
    good = sum(outcome.resolved for outcome in counted)
    speed = tail.rate(time.monotonic()) if now else None
    known = rate(good, len(counted)) if counted else None
    return [
        title,
        ProgressBar(total=total or 1, completed=count, width=14) if count else "",
        f"{count} of {phase.total}" if phase.total else str(count or ""),
        speed_text(speed) if speed else "",
        f"{_clock(left)} left" if now and (left := watch.left(phase)) else spent,
        f"{good} of {len(counted)}" if known else "",
        f"{known.low:.0%} to {known.high:.0%}" if known else "",
    ]


def _episode(episode: Episode) -> Text:
    status, turns = episode.outcome.status, episode.turns
    taught = sum(turn.actor == "teacher" for turn in turns)
    good = status == "resolved"
    length = f"{len(turns)} turns" + (f", {taught} by the teacher" if taught else "")
    why = "" if good else f", {episode.stop_reason.replace('_', ' ')}"
    return Text.assemble(
        ("● " if good else "○ ", "green" if good else "red"),
        f"{plain(episode.instance_id):<34} ",
        (plain(f"{status.replace('_', ' ')}{why}"), "" if good else "dim"),
        (f"  {length}", "dim"),
    )


def _words(episode: Episode) -> Panel:
    """The last turn of an episode that did more than finish, or the last."""
    turns = episode.turns
    if not turns:
        return Panel(Text("no turn was taken", style="dim"), box=box.SIMPLE)
    working = [k for k, t in enumerate(turns) if t.action is None or t.action.name != "finish"]
    number = working[-1] if working else len(turns) - 1
    turn = turns[number]
    lines = plain(turn.text).splitlines()
    text = "\n".join(lines[:LINES]) + ("\n…" if len(lines) > LINES else "")
    title = f"{turn.actor}, turn {number + 1} of {len(turns)}, {plain(episode.instance_id)}"
    style = STYLE.get(turn.actor, "")
    return Panel(
        Text(text), title=Text(title), title_align="left", box=box.ROUNDED, border_style=style
    )


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else clock(seconds)
