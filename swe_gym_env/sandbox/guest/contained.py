"""The supervisor as process 1 of a container that somebody else has made and limited.

Requests come on its stdin and answers go out on its stdout, which the engine carries to the parent.
It is its container's init: it reaps orphans, and nothing in the container can kill or stop it.
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
        kernel.prctl(4, 0)  # not dumpable: nobody in the sandbox may look into this process
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
    """Should the engine forget to tell us that the parent has gone."""

    def look(*_: object) -> None:  # anyone in the sandbox can send this signal
        if time.monotonic() >= deadline:
            os._exit(0)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline - time.monotonic()), 60.0)
