"""Ctrl-C while a thread waits for something that never comes: the process ends nevertheless, and
not before the surrounding handlers have reported the state."""

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


def test_outer_handlers_report_and_no_thread_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 130
    assert done.stdout == "1 of 2 cells\n"
    assert "Stopped." in done.stderr and "Traceback" not in done.stderr
