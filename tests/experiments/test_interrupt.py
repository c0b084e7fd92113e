"""Ctrl-C while a thread waits for something that never comes: the process ends all the same, and
not before those around have told how things stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUCK = """
import os, signal, threading
from experiments.console.interrupt import stoppable

threading.Thread(target=threading.Event().wait).start()
try:
    with stoppable("Stopped."):
        os.kill(os.getpid(), signal.SIGINT)
finally:
    print("1 of 2 cells")
"""


def test_what_stands_around_is_told_and_no_thread_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 130
    assert done.stdout == "1 of 2 cells\n"
    assert "Stopped." in done.stderr and "Traceback" not in done.stderr
