"""The supervisor as process 1 of a container that an engine has made and limited.

Requests arrive on its standard input and answers leave on its standard output; the engine carries
both to the parent. As the init process of the container it reaps orphans, and the kernel lets no
other process of the container kill or stop it.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from . import kernel, seccomp, wire
from .supervisor import Supervisor

REQUESTS, ANSWERS = 0, 1


def main() -> None:
    try:
        config: dict[str, Any] = wire.receive(REQUESTS)
        # PR_SET_DUMPABLE off: no process of the sandbox may read the memory or files of this one
        kernel.prctl(4, 0)
        os.umask(0o022)
        _end_at(time.monotonic() + config["ttl"])
        if kernel.SUPPORTED:
            seccomp.install()  # on top of the engine's own filter, which differs with its version
    except BaseException as error:
        wire.reply_error(ANSWERS, error)
        os._exit(1)
    wire.reply_ready(ANSWERS)
    Supervisor(REQUESTS, None, config, ANSWERS).serve()
    os._exit(0)


def _end_at(deadline: float) -> None:
    """End this process at ``deadline``, in case the engine does not report the parent's end."""

    def look(*_: object) -> None:  # it checks the clock, since the sandbox can send the signal too
        if time.monotonic() >= deadline:
            os._exit(0)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline - time.monotonic()), 60.0)
