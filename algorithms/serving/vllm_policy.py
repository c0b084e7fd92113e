"""A student served by vLLM as a policy: token ids in, token ids and their log-probs out.

It lays out conversations and reads replies as :class:`~algorithms.engine.hf_policy.HFPolicy` does,
so episodes of the two differ in their random numbers only. Log-probs are of the distribution that
the tokens were sampled from, after temperature and top-p, which importance ratios need: servers are
started with ``--logprobs-mode processed_logprobs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from algorithms.engine.rendering import Renderer
from algorithms.serving.fleet import Fleet, Place
from algorithms.serving.remote import ServedClient
from algorithms.serving.turns import TurnSampler
from algorithms.serving.weights import Version
from swe_gym_env.policies.base import Key, Reply, State
from swe_gym_env.policies.submit import act_by_submit

RENEWALS = 8  # servers are few, and one restart serves all who wait for it

T = TypeVar("T")


class VLLMPolicy:
    """Asks a fleet for turns of one version.

    Args:
        fleet: The servers.
        version: The version to ask for; turns of any other version are errors.
        renderer: Renderer of the student.
        stop_ids: Tokens that end a turn.
        name: Name of the policy.
        **sampling: As those of :class:`~algorithms.serving.turns.TurnSampler`.
    """

    needs_sandbox = False

    def __init__(
        self,
        fleet: Fleet,
        version: Version,
        renderer: Renderer,
        stop_ids: Sequence[int],
        *,
        name: str = "student",
        **sampling: Any,
    ) -> None:
        self.fleet, self.version, self.renderer, self.name = fleet, version, renderer, name
        self._sampler = TurnSampler(renderer, stop_ids, str(version.folder), **sampling)
        self._requests = ThreadPoolExecutor(fleet.concurrency, "request")  # no thread yet
        # apart, since what holds up the requests may be episodes that wait for a renewal
        self._renewals = ThreadPoolExecutor(RENEWALS, "renewal")

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order; see :meth:`submit`."""
        return act_by_submit(self, states)

    def submit(self, state: State) -> Future[Reply]:
        """Ask for one state. At most ``fleet.concurrency`` requests are under way.

        A reply that could not be had is a reply with an error; so is one during which the server's
        weights were exchanged. SetupError if a server cannot be kept running.
        """
        endpoint = _OfFleet(self.fleet, self.version, state.key)
        return self._requests.submit(self._sampler.reply, state, endpoint)

    def client(self) -> ServedClient:
        """What an episode on another machine asks the servers by, once it has a lease."""
        return ServedClient(self._sampler, self.version, self.fleet)

    def lease(self, key: Key, lost: Place | None = None) -> Future[Place]:
        """Where the episode of ``key`` asks by :meth:`client`; see :meth:`Fleet.lease`."""
        pool = self._requests if lost is None else self._renewals
        return pool.submit(self.fleet.lease, self.version, key, lost)

    def ended(self, key: Key) -> None:
        """The next episode at its server may take its place."""
        self.fleet.ended(key)


@dataclass(frozen=True)
class _OfFleet:
    """The server of one episode, asked from the process that keeps it."""

    fleet: Fleet
    version: Version
    key: Key

    def check(self) -> None:
        self.fleet.check(self.version, self.key)

    def request(self, body: dict[str, Any], read: Callable[[Any], T | None]) -> T:
        return self.fleet.request(self.version, self.key, body, read)

    def context_limit(self) -> int:
        return self.fleet.context_limit(self.version, self.key)
