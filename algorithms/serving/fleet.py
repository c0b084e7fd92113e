"""The servers of one student: all serve one version, and each episode stays with one of them.

Staying with one server lets it keep what it computed for the episode's earlier turns. A server that
dies is started again by whoever notices, with the version that is being served, while its requests
wait; a turn is lost only where it cannot be started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from algorithms.engine.adapters import is_adapter
from algorithms.serving.server import Server
from algorithms.serving.weights import Routes, Version
from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies import refusal
from swe_gym_env.policies.base import Key, keyed_rng
from swe_gym_env.policies.retry import RetryPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")


class Fleet:
    """``timeout`` is of one request, in seconds; ``concurrency`` are under way at once."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        timeout: float = 1800.0,
        concurrency: int = 256,
        retries: int = 4,
        pause: float = 1.0,
    ) -> None:
        self.servers, self.concurrency = list(servers), concurrency
        limits = httpx.Limits(max_connections=concurrency + len(self.servers))
        self._client = httpx.Client(timeout=timeout, limits=limits)
        self._routes = Routes(self._client)
        self._retry = RetryPolicy(retries, pause)
        self.version: Version | None = None
        self._publishing = threading.Lock()
        self._turn = threading.Condition()
        self._asking = 0
        self._closed = False

    def publish(self, version: Version) -> None:
        """From now on this and nothing else is served; servers that do not run are started.

        Requests for an older version fail once it is gone. SetupError if a server would not."""
        with self._publishing:
            if version == self.version and all(server.running for server in self.servers):
                return
            began = time.monotonic()
            with self._turn:
                if not is_adapter(version.folder):  # what is under way has no name of its own
                    self._turn.wait_for(lambda: not self._asking)
                self.version = version
            for server in self.servers:
                with server.lock:
                    self._serve(server, version)
            log.info("serving %s (%.1f s)", version.folder, time.monotonic() - began)

    def ask(
        self, version: Version, key: Key, body: Mapping[str, Any], read: Callable[[Any], T | None]
    ) -> T:
        """The answer to one request for ``version``. PolicyError if there is none, or if another
        version is served by now; SetupError where a server cannot be brought back."""
        server = self._server(key)
        seen = server.starts
        with self._under_way(version):

            def send() -> httpx.Response:
                nonlocal seen
                seen = server.starts
                answer = self._client.post(
                    f"{server.url}/v1/completions", json={**body, "model": version.model}
                )
                if answer.status_code == 404 and version == self.version:  # it was started anew
                    return httpx.Response(503, text=answer.text)
                return answer

            return self._retry.ask(send, read, server.url, lambda: self._revive(server, seen))

    def limit(self, version: Version, key: Key) -> int:
        """How many tokens the server of ``key`` takes, turn included; 0 where it does not say."""
        try:
            answer = self._client.get(f"{self._server(key).url}/v1/models", timeout=10.0)
            return refusal.limit(answer.json(), version.model)
        except (httpx.HTTPError, ValueError):
            return 0

    def check(self, version: Version) -> None:
        """That all servers hold ``version``, before and after turns are asked of it: one that was
        started again behind our back would answer with other weights. PolicyError."""
        with self._turn:
            current = self.version
        if version != current:
            raise PolicyError(f"{version.folder} is no longer served")
        if is_adapter(version.folder):
            return  # asked for by its name
        for server in self.servers:
            self._confirm(server, version)

    def stop(self) -> None:
        """End the servers that are ours; the next ``publish`` starts them again."""
        for server in self.servers:
            server.stop()

    def close(self) -> None:
        """Also where requests are under way: they fail."""
        self._closed = True
        self._retry.close()
        self.stop()
        self._client.close()

    def _server(self, key: Key) -> Server:
        return self.servers[int(keyed_rng(key[:4]).integers(len(self.servers)))]

    @contextmanager
    def _under_way(self, version: Version) -> Iterator[None]:
        with self._turn:
            if version != self.version and not is_adapter(version.folder):
                raise PolicyError(f"{version.folder} is no longer served")
            self._asking += 1
        try:
            yield
        finally:
            with self._turn:
                self._asking -= 1
                self._turn.notify_all()

    def _revive(self, server: Server, seen: int) -> None:
        """After a failed request that was sent when the server had been started ``seen`` times."""
        with server.lock:
            if server.starts != seen or self.version is None:
                return  # another request has seen to it
            self._serve(server, self.version, dead=server.running and not server.healthy())

    def _start(self, server: Server, version: Version, start: Callable[[Path], None]) -> None:
        start(version.base)
        if server.launch:
            self._routes.name(server, Version.of(version.base))

    def _holds(self, server: Server, version: Version) -> bool:
        """Whether the whole weights in it are those that ``version`` needs."""
        return self._routes.serves(server, Version.of(version.base))

    def _confirm(self, server: Server, version: Version) -> None:
        try:
            if self._routes.serves(server, version):
                return
        except httpx.HTTPError:
            return  # nobody answers, so nobody answers wrongly
        with server.lock:
            self._serve(server, version)
        raise PolicyError(f"{server.url} had other weights than those of {version.folder}")

    def _serve(self, server: Server, version: Version, dead: bool = False) -> None:
        """Whatever state the server is in. Its lock is held. SetupError if it cannot be."""
        trouble = ""
        for _ in range(3):
            if self._closed:
                raise PolicyError("the servers are being closed")
            try:
                if dead or not server.starts or not server.running:
                    self._start(server, version, server.restart if dead else server.start)
                elif server.launch and version.ties_head and not self._holds(server, version):
                    self._start(server, version, server.start)
                self._routes.bring(server, version)
                return
            except httpx.HTTPError as error:
                trouble, dead = f"{type(error).__name__}: {error}", True
            except PolicyError as error:
                trouble = str(error)
                break
        raise SetupError(f"the model server does not take {version.folder}: {trouble}")
