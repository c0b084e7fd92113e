"""One model server: started by us, watched, started again when it dies; or given by its URL.

Nothing here knows what is served: a server is a command line, a port, and a health check.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from algorithms.serving import guard
from swe_gym_env.errors import SetupError

log = logging.getLogger(__name__)

WINDOW = 3600.0  # seconds in which restarts are counted
TOLD = 30.0  # seconds between two lines that say what a start is waiting for


@dataclass(frozen=True)
class Launch:
    """How to start a server. ``arguments`` lack the model, the host and the port. ``restarts`` are
    those allowed within an hour, ``patience`` is how many seconds a start may take."""

    command: Sequence[str]
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    restarts: int = 3
    patience: float = 900.0
    host: str = "127.0.0.1"  # its administrative routes ask for no password


@dataclass
class Server:
    """Give ``url`` (without ``/v1``) or ``launch``. ``starts`` counts up whenever what was loaded
    into it is lost; hold ``lock`` while changing what it serves."""

    url: str = ""
    launch: Launch | None = None
    starts: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _guard: subprocess.Popen[bytes] | None = None
    _ends: deque[float] = field(default_factory=deque)

    def healthy(self, tries: int = 3) -> bool:
        """Whether it answers; a busy one is asked again."""
        for attempt in range(tries):
            if self._guard is not None and self._guard.poll() is not None:
                return False
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=10.0).status_code == 200:
                    return True
            if attempt + 1 < tries:
                time.sleep(1.0)
        return False

    @property
    def running(self) -> bool:
        """Whether it was started, or is not ours to start."""
        return self.launch is None or self._guard is not None

    @property
    def pid(self) -> int | None:
        """Of the process above all of a server that we started."""
        return self._guard.pid if self._guard else None

    def start(self, model: Path) -> None:
        """From nothing to healthy, with the weights in ``model``. SetupError, with the end of its
        log, if it dies on the way or takes too long."""
        self.starts += 1
        if self.launch is None:
            self._wait_for_given()
            return
        self.stop()
        own = self.launch
        port = _free_port(own.host)
        self.url = f"http://{own.host}:{port}"
        own.log.parent.mkdir(parents=True, exist_ok=True)
        where = ["--model", str(model), "--host", own.host, "--port", str(port)]
        with own.log.open("wb") as file:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *own.command, *where, *own.arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own.environment},
                start_new_session=True,
            )
        self._wait(self._guard, own)

    def restart(self, model: Path) -> None:
        """SetupError where it died too often."""
        if self.launch is not None:
            now = time.monotonic()
            while self._ends and now - self._ends[0] > WINDOW:
                self._ends.popleft()
            self._ends.append(now)
            if len(self._ends) > self.launch.restarts:
                self.stop()
                raise self._failed(f"died {len(self._ends)} times within an hour")
            log.warning("the model server at %s died: starting it again", self.url)
        self.start(model)

    def stop(self) -> None:
        """End what we started, and wait for it."""
        if self._guard is None:
            return
        process, self._guard = self._guard, None
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(guard.GRACE + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], own: Launch) -> None:
        began = told = time.monotonic()
        while not self.healthy(tries=1):
            now = time.monotonic()
            if process.poll() is not None:
                self.stop()
                raise self._failed("did not start")
            if now - began > own.patience:
                self.stop()
                raise self._failed(f"was not ready after {own.patience:.0f} seconds")
            if now - told > TOLD:
                told = now
                log.info("the model server starts, %.0f seconds so far: %s", now - began, own.log)
            time.sleep(0.5)
        log.info("model server at %s, ready after %.0f s", self.url, time.monotonic() - began)

    def _wait_for_given(self) -> None:
        for _ in range(6):
            if self.healthy(tries=1):
                return
            time.sleep(5.0)
        raise SetupError(
            f"no model server answers at {self.url}: start it again, or correct serving.urls"
        )

    def _failed(self, how: str) -> SetupError:
        assert self.launch is not None
        return SetupError(
            f"The model server {how}. From {self.launch.log}:\n{_explained(self.launch.log)}"
        )


def _explained(path: Path) -> str:
    """The end of a log, after the first errors in it, from which the last ones only follow."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "  (it is empty)"
    head, end = lines[:-10], lines[-10:]
    errors = list(dict.fromkeys(line for line in head if re.search(r"(Error|Exception): ", line)))
    return "\n".join(f"  {line}" for line in [*errors[:3], *end])


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
