"""Stands between a run and a server's processes, so that none of them outlives the run.

A model server is several processes, and one that is killed leaves the others, which hold the GPU.
This one starts the command given to it and adopts whatever that leaves behind. When its standard
input ends (the run closed it, or was killed: the kernel closes it either way), or the command ends,
or it is told to, it ends them all. Run by path; only the standard library is at hand.
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
GRACE = 5.0  # seconds for the command to end by itself

_libc = ctypes.CDLL(None, use_errno=True)


def main(command: list[str]) -> int:
    """The command's exit code; the caller's pipe is standard input."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's affair
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
    """Should this very process be killed, the command at least goes with it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_all() -> None:
    """Whoever loses a parent here becomes a child of this process, so it ends."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := own.read_text().split():
        for pid in map(int, pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
