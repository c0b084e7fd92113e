"""The servers of one student: all serve one version, and each episode stays with one of them.

Staying with one server lets it reuse what it computed for the earlier turns of the episode. A
server that dies is started again, with the version that is being served, by the first request that
notices; the others wait for it. A turn is lost only if the server cannot be started.

The rule that everything here protects: a turn is never sampled from other weights than those of the
version that was asked for. Each adapter has a name, so a request names its version. Full
weights all have one name, so they are exchanged only while no request is under way, and their
version is compared before and after every turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from algorithms.engine.adapters import is_adapter
from algorithms.serving.placement import Admission, Placement, cache_usage
from algorithms.serving.server import Server
from algorithms.serving.weights import Routes, Version
from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies import refusal
from swe_gym_env.policies.base import Key
from swe_gym_env.policies.retry import RetryPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where an episode on another machine asks: the address of its server, and how often that had
    been started when the address was given."""

    url: str
    starts: int


class Fleet:
    """The servers of one student.

    Args:
        servers: The servers; none is started before the first :meth:`publish`.
        timeout: Seconds that one request may take.
        concurrency: Most requests under way at once.
        retries: How often a failed request is sent again.
        pause: Seconds before the first retry; each further pause is twice as long.

    Attributes:
        timeout: As given.
        retry: Sends failed requests again.
        version: The version that is served; None before the first :meth:`publish`.
    """

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
        self.timeout = timeout
        limits = httpx.Limits(max_connections=concurrency + len(self.servers))
        self._client = httpx.Client(timeout=timeout, limits=limits)
        self._routes = Routes(self._client)
        self.retry = RetryPolicy(retries, pause)
        self.version: Version | None = None
        self._publishing = threading.Lock()
        self._condition = threading.Condition()  # guards version and _in_flight
        self._in_flight = 0
        self._closed = False
        self._placement = Placement(self.servers)
        self._admission = {
            id(server): Admission(concurrency, partial(self._cache_usage, server))
            for server in self.servers
        }

    def publish(self, version: Version) -> None:
        """Serve ``version`` and nothing else from now on; servers that do not run are started.

        Requests for an older version fail from then on.

        Raises:
            SetupError: A server cannot be started, or does not load the weights.
        """
        with self._publishing:
            if version == self.version and all(server.running for server in self.servers):
                return
            started = time.monotonic()
            with self._condition:
                # Full weights are exchanged inside the server, so requests under way would end
                # with others than they began with. An adapter's requests name their adapter.
                if not is_adapter(version.folder):
                    self._condition.wait_for(lambda: not self._in_flight)
                self.version = version
            for server in self.servers:
                with server.lock:
                    self._serve(server, version)
            log.info("serving %s (%.1f s)", version.folder, time.monotonic() - started)

    def request(
        self, version: Version, key: Key, body: Mapping[str, Any], read: Callable[[Any], T | None]
    ) -> T:
        """Send one completion request for ``version``.

        Args:
            version: The version to ask.
            key: Key of the state; all turns of its episode go to one server.
            body: The request, without ``model``.
            read: Reads the answer's JSON; None means that the answer is unusable.

        Raises:
            PolicyError: There is no usable answer, or another version is served by now.
            SetupError: The server died and cannot be started again.
        """
        server = self._server(key)
        starts_before = server.starts
        with self._admission[id(server)].request(), self._request_for(version):

            def send() -> httpx.Response:
                nonlocal starts_before
                starts_before = server.starts
                answer = self._client.post(
                    f"{server.url}/v1/completions", json={**body, "model": version.model}
                )
                # A server that has just been restarted does not have the adapter yet: retry.
                if answer.status_code == 404 and version == self.version:
                    return httpx.Response(503, text=answer.text)
                return answer

            def revive() -> None:
                self._revive(server, starts_before)

            return self.retry.ask(send, read, server.url, revive)

    def lease(self, version: Version, key: Key, lost: Place | None = None) -> Place:
        """Where the episode of ``key``, which is played elsewhere, asks until it has ended.

        Args:
            version: The version to ask.
            key: Key of a state of the episode.
            lost: The place that it had and that failed; its server is started again if it has died.

        Raises:
            PolicyError: Another version is served by now, or the episode ended while it waited.
            SetupError: The server died and cannot be started again.
        """
        server = self._server(key)
        if lost is None:
            self._admission[id(server)].hold(key[:4])
        with self._condition:
            if version != self.version:
                raise PolicyError(f"{version.folder} is no longer served")
        if lost is not None:
            self._revive(server, lost.starts)
        return Place(server.url, server.starts)

    def context_limit(self, version: Version, key: Key) -> int:
        """Most tokens of prompt and turn that the server of ``key`` takes; 0 if unknown."""
        try:
            answer = self._client.get(f"{self._server(key).url}/v1/models", timeout=10.0)
            return refusal.limit(answer.json(), version.model)
        except (httpx.HTTPError, ValueError):
            return 0

    def check(self, version: Version, key: Key) -> None:
        """Check that the server of ``key`` holds ``version``; to be called before and after a turn.

        Somebody else may have restarted a server, which would then answer with other weights.

        Raises:
            PolicyError: Another version is served.
        """
        with self._condition:
            current = self.version
        if version != current:
            raise PolicyError(f"{version.folder} is no longer served")
        if is_adapter(version.folder):
            return  # requests name it
        self._confirm(self._server(key), version)

    def stop(self) -> None:
        """Stop the servers that we started; the next :meth:`publish` starts them again."""
        for server in self.servers:
            server.stop()

    def close(self) -> None:
        """Stop permanently. Requests under way fail."""
        self._closed = True
        for admission in self._admission.values():
            admission.close()
        self.retry.close()
        self.stop()
        self._client.close()

    def _server(self, key: Key) -> Server:
        """The server of an episode: the same for all its turns."""
        return self._placement.server(key[:4])

    def ended(self, key: Key) -> None:
        """The episode of ``key`` needs its server no longer."""
        for admission in self._admission.values():
            admission.release(key[:4])
        self._placement.release(key[:4])

    def _cache_usage(self, server: Server) -> float | None:
        """Share of the KV cache in use, as vLLM's metrics report it; None where they do not."""
        try:
            return cache_usage(self._client.get(f"{server.url}/metrics", timeout=5.0).text)
        except httpx.HTTPError:
            return None

    @contextmanager
    def _request_for(self, version: Version) -> Iterator[None]:
        """Count a request as under way, so that full weights are not exchanged meanwhile."""
        with self._condition:
            if version != self.version and not is_adapter(version.folder):
                raise PolicyError(f"{version.folder} is no longer served")
            self._in_flight += 1
        try:
            yield
        finally:
            with self._condition:
                self._in_flight -= 1
                self._condition.notify_all()

    def _revive(self, server: Server, starts_before: int) -> None:
        """Bring a server back after a failed request.

        Many requests fail at once when a server dies. ``starts_before`` is the server's count of
        starts when the request was sent; if it has changed, another request has restarted it.
        """
        with server.lock:
            if server.starts != starts_before or self.version is None:
                return
            self._serve(server, self.version, dead=server.running and not server.healthy())

    def _start(self, server: Server, version: Version, start: Callable[[Path], None]) -> None:
        start(version.base)
        if server.launch:
            self._routes.set_version(server, Version.of(version.base))

    def _holds_base(self, server: Server, version: Version) -> bool:
        """Whether the full weights in the server are those that ``version`` needs."""
        return self._routes.serves(server, Version.of(version.base))

    def _confirm(self, server: Server, version: Version) -> None:
        """Raise PolicyError, once the server is brought back, if it holds other full weights.

        :meth:`publish` may have exchanged them since the caller looked, and those must stay. The
        version is therefore compared again, under the server's lock.
        """
        try:
            if self._routes.serves(server, version):
                return
        except httpx.HTTPError:
            return  # a server that does not answer gives no wrong turns
        with server.lock:
            if version != self.version:
                raise PolicyError(f"{version.folder} is no longer served")
            self._serve(server, version)  # no more than a look where somebody has done it meanwhile
        raise PolicyError(f"{server.url} had other weights than those of {version.folder}")

    def _serve(self, server: Server, version: Version, dead: bool = False) -> None:
        """Make ``server`` serve ``version``, whatever state it is in. Its lock must be held.

        Raises:
            SetupError: Three attempts failed, or the server refused.
        """
        reason = ""
        for _ in range(3):
            if self._closed:
                raise PolicyError("the servers are being closed")
            try:
                if dead or not server.starts or not server.running:
                    self._start(server, version, server.restart if dead else server.start)
                elif server.launch and version.ties_head and not self._holds_base(server, version):
                    self._start(server, version, server.start)  # see Version.ties_head
                self._routes.switch(server, version)
                return
            except httpx.HTTPError as error:
                reason, dead = f"{type(error).__name__}: {error}", True
            except PolicyError as error:
                reason = str(error)
                break
        raise SetupError(f"the model server does not load {version.folder}: {reason}")
