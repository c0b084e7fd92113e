"""A model that is loaded when it is first asked for a turn: no student where only the teacher acts,
no teacher in an evaluation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from swe_gym_env.policies.base import Policy, Reply, State

_loading = threading.Lock()  # student and teacher are asked side by side; loading sets globals


class LazyPolicy:
    """``load`` gives a policy that needs no sandbox."""

    needs_sandbox = False

    def __init__(self, load: Callable[[], Policy], name: str = "student") -> None:
        self.name = name
        self._load = load
        self._policy: Policy | None = None

    def act(self, states: Sequence[State]) -> list[Reply]:
        if self._policy is None:
            with _loading:
                self._policy = self._load()
        return self._policy.act(states)
