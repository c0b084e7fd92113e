"""The servers of a student as an episode on another machine asks them: directly, turn by turn.

The process that keeps the servers sends an episode one address, its lease, which the episode asks
for at its first turn (``swe_gym_env/rollout/ray/actors.py``). That process still decides which
server it is, and how many episodes ask it at once; it restarts a server that a lease reports as
lost, and takes the lease back when the episode has ended, also if its machine was lost.

The rule of ``fleet.py`` holds here too: no turn is sampled from other weights than those of the
version that was asked for. Adapters are named in each request; of full weights, the server's own
version string is compared before and after each turn.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import httpx

from algorithms.engine.adapters import is_adapter
from algorithms.serving.server import Server
from algorithms.serving.turns import TurnSampler
from algorithms.serving.weights import Routes, Version
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies import refusal
from swe_gym_env.policies.base import Reply, State

if TYPE_CHECKING:
    from algorithms.serving.fleet import Fleet, Place

T = TypeVar("T")


class Lease(Protocol):
    """The right of an episode to ask one server."""

    place: Place

    def renew(self) -> None:
        """Replace ``place``, which failed, by one whose server is up. PolicyError or SetupError
        where there is none."""


class ServedClient:
    """Asks for turns of one version at whatever place a lease names. It pickles.

    Attributes:
        loopback: Whether some of the servers can be reached from their own machine only.
    """

    def __init__(self, sampler: TurnSampler, version: Version, fleet: Fleet) -> None:
        self._sampler, self._version = sampler, version
        # found out here: the folder of the version may not exist where the episode is played
        self.model, self.named = version.model, is_adapter(version.folder)
        self._timeout, self.retry = fleet.timeout, fleet.retry
        self.loopback = any(_is_loopback(server) for server in fleet.servers)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "http"}

    @cached_property
    def http(self) -> httpx.Client:
        """Keeps its connections from one episode to the next."""
        return httpx.Client(timeout=self._timeout)

    def reply(self, state: State, lease: Lease) -> Reply:
        """The turn, or a reply with an error. SetupError if the server cannot be kept running."""
        return self._sampler.reply(state, _Leased(self, lease))

    def holds(self, place: Place) -> bool:
        """Whether the server there has the full weights of the version."""
        return Routes(self.http).serves(Server(place.url), self._version)


@dataclass(frozen=True)
class _Leased:
    """The server of one episode, asked from elsewhere."""

    client: ServedClient
    lease: Lease

    def check(self) -> None:
        if self.client.named:
            return  # requests name it
        place = self.lease.place
        try:
            if self.client.holds(place):
                return
        except httpx.HTTPError:
            return  # a server that does not answer gives no wrong turns
        self.lease.renew()
        raise PolicyError(f"{place.url} had other weights than those of the version asked for")

    def request(self, body: dict[str, Any], read: Callable[[Any], T | None]) -> T:
        def send() -> httpx.Response:
            url = f"{self.lease.place.url}/v1/completions"
            answer = self.client.http.post(url, json={**body, "model": self.client.model})
            # A server that has just been restarted does not have the adapter yet: retry. If it is
            # another version that is served by now, there is no new lease.
            if answer.status_code == 404:
                return httpx.Response(503, text=answer.text)
            return answer

        return self.client.retry.ask(send, read, self.lease.place.url, self.lease.renew)

    def context_limit(self) -> int:
        try:
            answer = self.client.http.get(f"{self.lease.place.url}/v1/models", timeout=10.0)
            return refusal.limit(answer.json(), self.client.model)
        except (httpx.HTTPError, ValueError):
            return 0


def _is_loopback(server: Server) -> bool:
    host = server.launch.host if server.launch else httpx.URL(server.url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
