"""One model server: started by us, watched and restarted when it dies, or run by somebody else.

Nothing here depends on what is served: a server is a command line, a port and a health check.
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

RESTART_WINDOW = 3600.0  # seconds in which restarts are counted
REPORT_INTERVAL = 30.0  # seconds between two log lines while a server starts


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        command: The program, as a list of words.
        arguments: Its arguments, without the model, the host and the port.
        environment: Variables added to the environment.
        log: File for its output.
        restarts: Most restarts within an hour.
        start_timeout: Seconds that a start may take.
        host: Address to listen on. The administrative routes ask for no password, so it should not
            be reachable from outside.
    """

    command: Sequence[str]
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    restarts: int = 3
    start_timeout: float = 900.0
    host: str = "127.0.0.1"


@dataclass
class Server:
    """A server, given by either ``url`` or ``launch``.

    Attributes:
        url: Its address without ``/v1``; set by :meth:`start` if it is launched.
        launch: How to start it; None for a server that somebody else runs.
        starts: Number of starts. A change means that everything loaded into it was lost.
        lock: To be held while changing what it serves.
    """

    url: str = ""
    launch: Launch | None = None
    starts: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _guard: subprocess.Popen[bytes] | None = None
    _restart_times: deque[float] = field(default_factory=deque)

    def healthy(self, tries: int = 3) -> bool:
        """Whether it answers. A busy server may need several tries."""
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
        """Whether it was started. A server that somebody else runs counts as started."""
        return self.launch is None or self._guard is not None

    @property
    def pid(self) -> int | None:
        """Process id of the guard of a server that we started."""
        return self._guard.pid if self._guard else None

    def start(self, model: Path) -> None:
        """Start with the weights in ``model`` and wait until it is healthy.

        Raises:
            SetupError: It died, or took too long; the message has the end of its log.
        """
        self.starts += 1
        if self.launch is None:
            self._wait_for_external()
            return
        self.stop()
        launch = self.launch
        port = _free_port(launch.host)
        self.url = f"http://{launch.host}:{port}"
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        options = ["--model", str(model), "--host", launch.host, "--port", str(port)]
        program = [*launch.command, *options, *launch.arguments]
        with launch.log.open("wb") as file:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *program],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **launch.environment},
                start_new_session=True,
            )
        self._wait(self._guard, launch)

    def restart(self, model: Path) -> None:
        """Start a server that died.

        Raises:
            SetupError: It died too often, or :meth:`start` failed.
        """
        if self.launch is not None:
            now = time.monotonic()
            while self._restart_times and now - self._restart_times[0] > RESTART_WINDOW:
                self._restart_times.popleft()
            self._restart_times.append(now)
            if len(self._restart_times) > self.launch.restarts:
                self.stop()
                raise self._failed(f"died {len(self._restart_times)} times within an hour")
            log.warning("the model server at %s died: starting it again", self.url)
        self.start(model)

    def stop(self) -> None:
        """Stop what we started, and wait for its end."""
        if self._guard is None:
            return
        process, self._guard = self._guard, None
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()  # the guard ends the server when its input is closed
        try:
            process.wait(guard.GRACE + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], launch: Launch) -> None:
        started = reported = time.monotonic()
        while not self.healthy(tries=1):
            now = time.monotonic()
            if process.poll() is not None:
                self.stop()
                raise self._failed("did not start")
            if now - started > launch.start_timeout:
                self.stop()
                raise self._failed(f"was not ready after {launch.start_timeout:.0f} seconds")
            if now - reported > REPORT_INTERVAL:
                reported = now
                message = "the model server is starting, %.0f seconds so far: %s"
                log.info(message, now - started, launch.log)
            time.sleep(0.5)
        log.info("model server at %s, ready after %.0f s", self.url, time.monotonic() - started)

    def _wait_for_external(self) -> None:
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
            f"The model server {how}. From {self.launch.log}:\n{_excerpt(self.launch.log)}"
        )


def _excerpt(path: Path) -> str:
    """The last lines of a log, after its first errors, which usually caused the later ones."""
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
