"""Who can act. A policy sees states and answers with whole turns, many at a time.

The roll-out asks for all waiting states in one call, so that a model in process can batch them and
a server client can send them side by side. Answers may not depend on what else is in the batch:
randomness comes from each state's key alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance, TaskView, ToolCall, Turn

# (seed, round, instance_id, repeat, turn, role): everything that randomness may depend on
Key = tuple[int, int, str, int, int, str]


def keyed_rng(key: Sequence[int | str]) -> np.random.Generator:
    """The generator of one key: the same in every process, whatever else runs."""
    digest = hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


# Begins the ``error`` of a Reply whose history no longer fits the model: the episode ends there and
# is scored, where any other error has it tried again.
CONTEXT_FULL = "context full"


@dataclass(frozen=True)
class State:
    """What a policy may look at. ``sandbox`` is set only for a policy with ``needs_sandbox``.
    ``task`` is the whole task, with its gold patch and its hidden tests, only for one with
    ``needs_answer``; everybody else gets a view without them."""

    key: Key
    task: TaskView | TaskInstance
    system_prompt: str
    turns: tuple[Turn, ...]
    observation: str
    sandbox: Sandbox | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The history as chat messages: what was executed, never a label."""
        chat = [{"role": "system", "content": self.system_prompt}]
        for turn in self.turns:
            chat.append({"role": "user", "content": turn.observation})
            chat.append({"role": "assistant", "content": turn.text})
        chat.append({"role": "user", "content": self.observation})
        return chat


@dataclass(frozen=True)
class Reply:
    """One turn. Exactly one of ``text`` (a model's own words), ``action`` (a canonical call) and
    ``error`` need be set. ``token_ids`` and ``logprobs`` are per sampled token, end-of-turn
    included. ``prompt_tokens`` and ``generated_tokens`` are what a server says it has billed."""

    text: str | None = None
    action: ToolCall | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    policy_version: str = ""
    error: str = ""
    seconds: float = 0.0
    prompt_tokens: int | None = None
    generated_tokens: int | None = None


class Policy(Protocol):
    """Whoever answers states with turns: a model, a server, a script, the expert.

    A policy that must know the task's gold patch, as the expert does, has ``needs_answer = True``
    besides; every other one is shown no more than an agent may see (:func:`needs_answer`).
    """

    name: str
    needs_sandbox: bool

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order. A failure is a Reply with ``error``, not an exception."""


def needs_answer(policy: Policy) -> bool:
    """Whether ``policy`` declares that it must see the gold patch. SetupError unless it says so
    plainly, with a bool: a value that only looks true would hand out the answer by mistake."""
    wanted = getattr(policy, "needs_answer", False)
    if not isinstance(wanted, bool):
        raise SetupError(f"{policy.name}: needs_answer={wanted!r}, but it is True or False")
    return wanted


def shown(task: TaskInstance, policy: Policy) -> TaskView | TaskInstance:
    """``task`` as ``policy`` may see it."""
    return task if needs_answer(policy) else TaskView.of(task)
