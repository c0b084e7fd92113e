"""Kills a command by SIGKILL at a chosen one of the calls that make something lasting."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any


def watch(events: str | None, kill: dict[str, Any] | None) -> None:
    """Observe the calls of this process that make something lasting: fsync, rename, replace, and
    the file that marks a phase as done.

    Args:
        events: a file to which one line is written for each such call.
        kill: at which call (``number``) the process kills itself and ``how``: ``before`` it,
            ``after`` it, or ``torn``, with the line that it writes cut at random (``seed``).
    """
    count = 0

    def around(name: str, call: Callable[..., Any], wanted: Callable[..., bool]) -> Any:
        def watched(*args: Any, **options: Any) -> Any:
            nonlocal count
            if not wanted(*args):
                return call(*args, **options)
            count += 1
            if events:
                with open(events, "a") as file:
                    file.write(f"{name}\n")
            now = kill is not None and kill["number"] == count
            if now and kill is not None and kill["how"] != "after":
                if kill["how"] == "torn" and name == "fsync":
                    _tear(args[0], kill["seed"])
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return watched

    os.fsync = around("fsync", os.fsync, lambda *_: True)
    os.rename = around("rename", os.rename, lambda *_: True)
    os.replace = around("replace", os.replace, lambda *_: True)
    os.open = around("done", os.open, lambda path, *_: str(path).endswith(".done"))


def _tear(descriptor: int, seed: int) -> None:
    """As if the last write had been cut: the file loses some of its last bytes."""
    size = os.fstat(descriptor).st_size
    os.ftruncate(descriptor, size - random.Random(seed).randint(1, min(size, 400)))
