"""A thread that decodes replies as they are asked for, so that no reply waits for another one.

Callers are one thread per episode. Each adds a row and waits for its future; between two steps the
thread lets new rows into the batch and delivers the finished ones.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from algorithms.engine.decoding import Batch, Decoder, Row
from swe_gym_env.errors import PolicyError, SetupError

LINGER_SECONDS = 5.0  # an idle thread ends after this time, since it keeps the model in memory
CLOSED = "the policy was closed before this reply was complete"

_engines: weakref.WeakSet[ContinuousEngine] = weakref.WeakSet()


class ContinuousEngine:
    """The thread starts with the first row and ends when there are none for some seconds.

    Args:
        decoder: Computes the steps. Another thread uses it only inside :meth:`paused`.
        finish: Called in the thread with a row that is done; it sets the result of its future.
    """

    def __init__(self, decoder: Decoder, finish: Callable[[Row], None]) -> None:
        self._decoder, self._finish = decoder, finish
        self._lock = threading.Condition()  # guards what follows
        self._added: list[Row] = []
        self._thread: threading.Thread | None = None
        self._closing = False
        self._others = 0  # callers that want to use the decoder themselves
        self._broken: SetupError | None = None
        self._computing = threading.Lock()  # held while the decoder is used
        _engines.add(self)

    def add(self, row: Row) -> None:
        """Let ``row`` take part from the next step on, or as soon as a place is free.

        Raises:
            SetupError: The model raised it before, so it would do so again.
        """
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._added.append(row)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
                self._thread.start()
            self._lock.notify_all()

    def close(self) -> None:
        """End the thread after the step that it computes; open futures get a PolicyError.

        A row that is added afterwards starts a new thread.
        """
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._closing = True
            self._lock.notify_all()
        if thread is not threading.current_thread():
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Use the decoder from another thread: the next step waits until the block ends."""
        with self._lock:
            self._others += 1
        try:
            with self._computing:
                yield
        finally:
            with self._lock:
                self._others -= 1
                self._lock.notify_all()

    def _run(self) -> None:
        batch = self._decoder.open_batch()
        try:
            while self._next(batch):
                with self._computing:
                    done = self._step(batch)
                for row in done:
                    self._finish(row)
                if not batch:  # nothing keeps the memory of the cache while callers are busy
                    batch = self._decoder.open_batch()
        except SetupError as error:
            self._end(batch, error, broken=error)
        except BaseException as error:
            self._end(batch, error)
            raise

    def _next(self, batch: Batch) -> bool:
        """Wait for rows and move them into ``batch``; False to end the thread."""
        with self._lock:
            if not batch:
                self._lock.wait_for(lambda: self._added or self._closing, LINGER_SECONDS)
            self._lock.wait_for(lambda: self._closing or not self._others)
            if self._closing or not (self._added or batch):
                self._end(batch, PolicyError(CLOSED))
                return False
            batch.waiting += self._added
            self._added = []
            return True

    def _end(self, batch: Batch, error: BaseException, broken: SetupError | None = None) -> None:
        """The thread ends: every open row fails with ``error``."""
        with self._lock:
            rows, self._added = [*batch.placed, *batch.waiting, *self._added], []
            self._broken, self._closing, self._thread = broken, False, None
        for row in rows:
            if row.future.running() or row.future.set_running_or_notify_cancel():
                row.future.set_exception(error)

    def _step(self, batch: Batch) -> list[Row]:
        """One step. An exception that no single row has caused fails all that have a place.

        Raises:
            SetupError: The model cannot be used at all.
        """
        try:
            return self._decoder.step(batch, gradually=True)
        except SetupError:
            raise
        except Exception as error:
            failed = batch.placed or batch.waiting
            for row in failed:
                row.error = error
            batch.waiting = [row for row in batch.waiting if row not in failed]
            batch.cache, batch.active, batch.entering = self._decoder.open_batch().cache, [], []
            return failed


@atexit.register
def _close_all() -> None:
    """A daemon thread that is inside the model while Python shuts down can crash it."""
    for engine in list(_engines):
        engine.close()
