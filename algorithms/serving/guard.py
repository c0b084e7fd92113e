"""A process between a run and a model server, so that none of the server's processes outlives it.

A model server consists of several processes. If one of them is killed, the others go on holding the
GPU. The guard starts the command that it is given and adopts every process that the command leaves
behind. It ends all of them when its standard input is closed (by the run, or by the kernel when the
run is killed), when the command ends, or on SIGTERM.

It is started by its path in isolated mode, so it can import the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 5.0  # seconds that the command gets to end after SIGTERM

_libc = ctypes.CDLL(None, use_errno=True)


def main(command: list[str]) -> int:
    """Run ``command`` under guard.

    Returns:
        Its exit code.
    """
    # Orphans below this process become its children, instead of init's.
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    try:
        select.select([sys.stdin, os.pidfd_open(child.pid)], [], [])
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        _kill_all()
    return child.wait()


def _die_with_parent() -> None:
    """If the guard itself is killed, at least the command ends with it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_all() -> None:
    """Kill all children until there are none; children of a killed process become ours."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text().split():
        for pid in map(int, pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
