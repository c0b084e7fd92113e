"""A model that is loaded when it is first asked for a turn: no student where only the teacher acts,
no teacher in an evaluation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from swe_gym_env.policies.base import Key, Policy, Reply, State
from swe_gym_env.policies.submit import Submitting, release, submitting

_loading = threading.Lock()  # student and teacher are asked side by side; loading sets globals


class LazyPolicy:
    """``load`` gives a policy that needs no sandbox.

    One that is served by other processes can be asked from other machines directly. Then ``client``
    gives what asks there, without loading anything; it pickles and has ``reply(state, lease)``, and
    the policy has ``lease`` (``rollout/ray/actors.py``).
    """

    needs_sandbox = False

    def __init__(
        self,
        load: Callable[[], Policy],
        name: str = "student",
        client: Callable[[], Any] | None = None,
    ) -> None:
        self.name, self.client = name, client
        self._load = load
        self._loaded: tuple[Policy, Submitting] | None = None

    def act(self, states: Sequence[State]) -> list[Reply]:
        return self._get()[0].act(states)

    def submit(self, state: State) -> Future[Reply]:
        """The first call waits for the model to be loaded."""
        return self._get()[1].submit(state)

    def lease(self, key: Key, lost: Any = None) -> Future[Any]:
        """Where the episode of ``key`` may ask until it has ended; ``lost`` is the place that it
        had and that failed. The first call waits for the model to be loaded."""
        served: Any = self._get()[0]
        return served.lease(key, lost)

    def ended(self, key: Key) -> None:
        if self._loaded is not None:
            release(self._loaded[0], key)

    def _get(self) -> tuple[Policy, Submitting]:
        if self._loaded is None:
            with _loading:
                if self._loaded is None:
                    policy = self._load()
                    self._loaded = policy, submitting(policy)
        return self._loaded
