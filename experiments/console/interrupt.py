"""Ctrl-C: once ends the work in order, twice at once. Neither leaves a sandbox behind.

In order means within seconds: episodes that have ended are scored and written, for ten seconds at
most; those under way are played again, the same, by the next start; a training begins again from
the checkpoint before it. At once means that this process ends where it stands, which the run folder
and the sandboxes survive as they do a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130  # the exit code of a shell's command that Ctrl-C has ended
FIRST = "\nStopping: what has ended is still written. Press Ctrl-C again to stop now.\n"


@contextlib.contextmanager
def stoppable(last_words: str) -> Iterator[None]:
    """Within, the first Ctrl-C is a KeyboardInterrupt, and the second says ``last_words`` and ends
    the process. Changes nothing outside the main thread, where no signal arrives."""
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _say(f"\n{last_words}\n")
            os._exit(INTERRUPTED)
        asked = True
        _say(FIRST)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    after: Any = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        after = _nothing  # while the process ends
        _say(f"\n{last_words}\n")
        _end()
    finally:
        if not asked:  # else the second may come while the interpreter ends
            signal.signal(signal.SIGINT, after)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A further Ctrl-C. (Ignored signals would be so in every process that is still started.)"""


def _say(text: str) -> None:
    """Past Python's buffers, which a handler may find in mid-write."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _end() -> NoReturn:
    """Exits after the outer handlers have reported, without joining threads that wait for a server
    or for tests in a sandbox."""
    main = threading.main_thread()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not main):
        threading.Thread(target=_leave, daemon=True).start()
    raise SystemExit(INTERRUPTED) from None


def _leave() -> None:
    threading.main_thread().join()  # it is done before the interpreter waits for the others
    sys.stdout.flush()
    os._exit(INTERRUPTED)
