"""A policy from what a user has: a policy, any object with ``act``, or a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy, Reply, State, needs_answer
from swe_gym_env.policies.scripted import ScriptedPolicy


def as_policy(value: Any, role: str) -> Policy:
    """``value`` as a policy.

    Args:
        value: An object with ``act(states)``, which may lack ``name`` and ``needs_sandbox``; or a
            function from a state to a turn's text, which is called for one state at a time.
        role: The argument's name, for the error.

    Raises:
        SetupError: It is neither.
    """
    is_class = isinstance(value, type)
    if callable(getattr(value, "act", None)) and not is_class:
        policy = value if _is_complete(value) else NamedPolicy(value)
        needs_answer(policy)
        return policy
    if is_class or not callable(value):
        kind = f"the class {value.__name__}" if is_class else repr(value)
        raise SetupError(
            f"{role}={kind} is no policy: it is an object with act(states), which returns one "
            "Reply for each state, or a function from a state to the text of a turn"
        )
    return ScriptedPolicy(value, getattr(value, "__name__", type(value).__name__))


class NamedPolicy:
    """A policy without some of the attributes of one, which has their defaults here."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.name = str(getattr(policy, "name", type(policy).__name__))
        self.version = getattr(policy, "version", "")
        self.needs_sandbox = bool(getattr(policy, "needs_sandbox", False))
        self.needs_answer = getattr(policy, "needs_answer", False)
        for name in ("submit", "ended"):  # optional ones
            if callable(method := getattr(policy, name, None)):
                setattr(self, name, method)

    def act(self, states: Sequence[State]) -> list[Reply]:
        return self.policy.act(states)


def _is_complete(value: Any) -> bool:
    return isinstance(getattr(value, "name", None), str) and isinstance(
        getattr(value, "needs_sandbox", None), bool
    )
