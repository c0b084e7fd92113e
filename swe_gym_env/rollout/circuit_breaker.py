"""Consecutive failures: when a roll-out waits, and when it stops.

An episode whose sandbox died is played again at once. If something that all episodes need is down
(an engine that restarts, a server), it needs time to come back: after each further failure without
a finished episode in between, the next start waits longer. If failures continue, the run stops.
"""

from __future__ import annotations

import logging
import threading
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
    """Counts consecutive failures of one cause. Failures at the same time count once: one adds to
    the count only if its attempt began after the failure that was counted before it."""

    def __init__(self, limit: int) -> None:
        """``limit`` consecutive failures end the roll-out; 10 take about two minutes."""
        self._limit = limit
        self._lock = threading.RLock()  # episodes that are graded add failures in their threads
        self._forget()

    def _forget(self, cause: str = "") -> None:
        self.count, self._cause, self._last, self._until = 0, cause, 0.0, 0.0

    def success(self) -> None:
        """An episode was played and scored."""
        with self._lock:
            if self.count > 1:
                log.info("the %s faults are over: going on", self._cause)
            self._forget()

    def add(self, cause: str, message: str, began: float) -> None:
        """An attempt that began at ``began`` (time.monotonic) failed. Raises SetupError at the
        limit."""
        with self._lock:
            self._add(cause, message, began)

    def _add(self, cause: str, message: str, began: float) -> None:
        if cause != self._cause:
            self._forget(cause)
        elif began < self._last:
            return
        self._last = time.monotonic()
        self.count += 1
        if self.count >= self._limit:
            todo = WHAT_TO_DO.get(cause, "fix that")
            raise SetupError(
                f"stopped: {self.count} faults of the kind {cause!r} in a row, the last: "
                f"{message[:500].strip()}\nWhat is finished is kept: {todo}, then give the same "
                "command again."
            )
        if self.count > 1:
            pause = min(FIRST_PAUSE * 2 ** (self.count - 2), LONGEST_PAUSE)
            self._until = self._last + pause
            log.warning(
                "%d %s faults in a row (%s): waiting %.0f s",
                self.count,
                cause,
                message[:200],
                pause,
            )

    def pause(self) -> float:
        """Seconds until a new attempt may be started; 0 if nothing is wrong."""
        return max(0.0, self._until - time.monotonic())
