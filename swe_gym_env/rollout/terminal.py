"""One line on a terminal that says how far a roll-out has come."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from swe_gym_env.rollout.driver import Progress


class Line:
    """Written to ``stream`` if that is a terminal, and again in its place with each step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown = stream, stream.isatty()
        self._began, self._first = time.monotonic(), -1

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._first >= 0:
            self._stream.write("\n")
            self._stream.flush()

    def __call__(self, now: Progress) -> None:
        if not self._shown:
            return
        if self._first < 0:
            self._first = now.done
        text = (
            f"{now.done} of {now.total} episodes, {now.resolved} resolved, {now.running} running, "
            f"{now.turns} turns"
        )
        if played := now.done - self._first:
            text += f", {60 * played / (time.monotonic() - self._began):.1f} episodes a minute"
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{text[: columns - 1]}")
        self._stream.flush()
