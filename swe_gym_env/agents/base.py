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

from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance, ToolCall, Turn

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
    """What a policy may look at. ``sandbox`` is set only for a policy with ``needs_box``."""

    key: Key
    task: TaskInstance
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
    """Whoever answers states with turns: a model, a server, a script, the expert."""

    name: str
    needs_box: bool

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order. A failure is a Reply with ``error``, not an exception."""
