"""Faults that pile up: when a roll-out waits a little, and when it gives up.

One sandbox that dies is played again at once. What takes everything down at the same time (an
engine that restarts, a server that is gone) needs time to come back, so after each further fault
without an episode played to its end in between, the next start waits longer. Who goes on failing
all the same is stopped: a night of ``infra_error`` helps nobody.
"""

from __future__ import annotations

import logging
import time

from swe_gym_env.errors import SetupError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds; doubled in between
WHAT_TO_DO = {
    "engine": "start the sandbox's engine",
    "sandbox": "see whether this machine still makes sandboxes: free memory, free disk, the tasks' "
    "images (`python -m swe_gym_env validate`)",
    "policy": "see whether the model's server is up and sane",
    "grading": "see whether the tasks' tests still run (`python -m swe_gym_env validate`)",
}


class CircuitBreaker:
    """Faults of one cause in a row. What fails at the same time counts once: a fault adds to the
    row only if its attempt began after the one counted before it."""

    def __init__(self, most: int) -> None:
        """``most`` in a row end the roll-out; about two minutes of failing, for 10."""
        self._most = most
        self._forget()

    def _forget(self, cause: str = "") -> None:
        self.count, self._cause, self._last, self._until = 0, cause, 0.0, 0.0

    def success(self) -> None:
        """An episode was played and scored."""
        if self.count > 1:
            log.info("the %s faults are over: going on", self._cause)
        self._forget()

    def add(self, cause: str, message: str, began: float) -> None:
        """An attempt that began at ``began`` (time.monotonic) failed. Raises SetupError when they
        pile up."""
        if cause != self._cause:
            self._forget(cause)
        elif began < self._last:
            return
        self._last = time.monotonic()
        self.count += 1
        if self.count >= self._most:
            todo = WHAT_TO_DO.get(cause, "mend that")
            raise SetupError(
                f"stopped: {self.count} faults of the kind {cause!r} in a row, the last: "
                f"{message[:500].strip()}\nWhat is finished is kept: {todo}, then give the same "
                "command again."
            )
        if self.count > 1:
            pause = min(FIRST_PAUSE * 2 ** (self.count - 2), LONGEST_PAUSE)
            self._until = self._last + pause
            told = (self.count, cause, message[:200], pause)
            log.warning("%d %s faults in a row (%s): waiting %.0f s", *told)

    def pause(self) -> float:
        """Seconds until something new may be started; 0 where nothing is wrong."""
        return max(0.0, self._until - time.monotonic())
