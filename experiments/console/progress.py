"""What the user sees while it runs: one bar per phase with its rate and the time left.

Without a terminal (a log file, CI) the same facts come as plain lines every few seconds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger("experiments")

SURE = 0.15  # share of the steps after which their speed foretells the rest


class Advance:
    """Handed to a phase. ``note`` is a short remark such as "7 resolved"."""

    def __init__(self, done: int, show: Callable[[int, int | None, str], None]) -> None:
        self.done, self._show = done, show

    def __call__(self, steps: int = 1, note: str = "") -> None:
        self.to(self.done + steps, note=note)

    def to(self, done: int, total: int | None = None, note: str = "") -> None:
        """``total`` where it turned out to be another."""
        self.done = done
        self._show(done, total, note)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(speed_text(speed) if speed else "", style="dim")


def speed_text(speed: float) -> str:
    """``speed`` in steps a second."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{speed * 60:.1f}/min"


def clock(seconds: float) -> str:
    """As on a clock: 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_of(seconds: float) -> str:
    """In words: 2:03 min, or 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


class _Plain(logging.Formatter):
    """Messages may quote what a model or a test wrote."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def plain(text: str) -> str:
    """Without what would steer the terminal."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)


def console() -> Console:
    """For text that is not ours: a bracket in a name is no markup, and what the terminal's encoding
    lacks is replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Display:
    """One console for bars, log lines and tables."""

    def __init__(self, level: str = "INFO", seconds_between_lines: float = 15) -> None:
        self.console = console()
        self._between = seconds_between_lines
        self._bars: Progress | None = None
        handler: logging.Handler
        if self.console.is_terminal:
            handler = RichHandler(console=self.console, show_path=False, log_time_format="%H:%M:%S")
            handler.setFormatter(_Plain("%(message)s"))
        else:
            handler = logging.StreamHandler()
            handler.setFormatter(_Plain("%(asctime)s %(message)s", "%H:%M:%S"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        for name in ("experiments", "algorithms", "swe_gym_env"):
            logging.getLogger(name).setLevel(level)

    @contextlib.contextmanager
    def phase(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """``done`` of ``total`` steps may already lie on disk from an earlier start."""
        show = self._bar if self.console.is_terminal else self._lines
        with show(title, total, done) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        around = self._bars  # of a phase that goes on beside this one: a terminal shows one table
        fresh = Progress(*columns, console=self.console, speed_estimate_period=120)
        with contextlib.nullcontext(around) if around else fresh as progress:
            self._bars = progress
            bar = progress.add_task(title, total=total, completed=done, note="")
            try:
                yield Advance(
                    done,
                    lambda now, of, note: progress.update(bar, completed=now, total=of, note=note),
                )
            finally:
                self._bars = around

    @contextlib.contextmanager
    def _lines(self, title: str, total: int, done: int) -> Iterator[Advance]:
        began = last = time.monotonic()
        if total:
            log.info("%s: %d of %d", title, done, total)

        def show(now: int, of: int | None, note: str) -> None:
            nonlocal last, total
            total = of or total
            clock = time.monotonic()
            if clock - last < self._between:
                return
            last = clock
            speed = (now - done) / (clock - began)
            rate = speed_text(speed) if speed else "begun"
            if now - done >= SURE * (total - done) and speed:
                rate += f", {(total - now) / speed:.0f} s left"
            log.info("%s: %d of %d, %s; %s", title, now, total, rate, note)

        advance = Advance(done, show)
        yield advance
        log.info("%s: %d of %d in %.0f s", title, advance.done, total, time.monotonic() - began)
