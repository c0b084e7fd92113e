"""Sandboxes that are started before they are needed, so that a reset does not wait for them.

This pays off where a start takes longer than an agent should wait (0.3 s and more for a container).
The caller that knows which tasks come next, such as the roll-out driver, names them with
``prefetch``.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

from swe_gym_env.errors import SWEGymError
from swe_gym_env.sandbox.base import Sandbox, SandboxProvider, SandboxSpec

log = logging.getLogger(__name__)
Key = tuple[Any, ...]


class WarmProvider:
    """A provider that keeps sandboxes of the expected tasks ready.

    Args:
        provider: What makes the sandboxes.
        ahead: Largest number of sandboxes that are ready or being made and not yet claimed.
        workers: Threads that make sandboxes.
    """

    def __init__(self, provider: SandboxProvider, ahead: int = 4, workers: int = 4) -> None:
        self.name, self.unavailable = provider.name, provider.unavailable
        self._provider, self._ahead, self._workers = provider, ahead, workers
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # the sandboxes are the parent's

    def _forget(self) -> None:
        self._lock = Lock()
        self._ready: dict[Key, deque[Future[Sandbox]]] = {}
        self._makers: ThreadPoolExecutor | None = None

    def create(self, spec: SandboxSpec) -> Sandbox:
        with self._lock:
            waiting = self._ready.get(_key(spec))
            future = waiting.popleft() if waiting else None
        if future is not None:
            try:
                sandbox = future.result()
                sandbox.read("/etc/hostname")  # it may have died while it waited
                return sandbox
            except (SWEGymError, OSError) as error:
                log.info("a prefetched sandbox is unusable and is made again: %s", error)
        return self._provider.create(spec)

    def prefetch(self, specs: Sequence[SandboxSpec]) -> None:
        """Start sandboxes for ``specs``, which are needed next and in this order.

        Unclaimed sandboxes of earlier calls are kept if they match one of ``specs``, else closed.
        """
        with self._lock:
            if self._makers is None:
                self._makers = ThreadPoolExecutor(self._workers, "warm")
            old, self._ready = self._ready, {}
            for spec in specs[: self._ahead]:
                mine = old.get(_key(spec))
                future = mine.popleft() if mine else self._makers.submit(self._make, spec)
                self._ready.setdefault(_key(spec), deque()).append(future)
            for futures in old.values():
                for future in futures:
                    if not future.cancel():
                        self._makers.submit(_discard, future)

    def close(self) -> None:
        """Close all unclaimed sandboxes. The provider can still be used."""
        self.prefetch(())
        with self._lock:
            makers, self._makers = self._makers, None
        if makers is not None:
            makers.shutdown(wait=True)

    def _make(self, spec: SandboxSpec) -> Sandbox:
        return self._provider.create(spec)


def _discard(future: Future[Sandbox]) -> None:
    try:
        future.result().close()
    except SWEGymError as error:
        log.info("a prefetched sandbox could not be made: %s", error)


def _key(spec: SandboxSpec) -> Key:
    return (spec.image, spec.workdir, tuple(sorted(spec.env.items())), spec.limits)
