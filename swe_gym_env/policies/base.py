"""Who can act. A policy sees states and answers with whole turns, many at a time.

``act`` takes many states in one call, so that a model in this process can batch them. A policy that
can work on many requests at the same time also has ``submit`` (``policies/submit.py``). Answers may
not depend on the other states: randomness comes from each state's key alone.
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


# Begins the ``error`` of a Reply whose history no longer fits the model. It ends and scores the
# episode; every other error is retried.
CONTEXT_FULL = "context full"


@dataclass(frozen=True)
class State:
    """What a policy may look at.

    Attributes:
        key: What the policy's randomness may depend on (:func:`keyed_rng`).
        task: What an agent may know of the task. The whole task, with gold patch and hidden tests,
            only for a policy with ``needs_answer``.
        system_prompt: The system prompt, with the action format and the tools.
        turns: Executed turns, oldest first.
        observation: The newest one, to be answered now.
        sandbox: Only for a policy with ``needs_sandbox``, else None.
    """

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
    """One turn. One of ``text``, ``action`` and ``error`` is needed.

    Attributes:
        text: The turn in the action format of the system prompt.
        action: The turn as a call, which the roll-out renders in the action format.
        token_ids: Sampled tokens, end-of-turn included; empty if they are not known.
        logprobs: Log-probability of each sampled token.
        policy_version: Identifies the weights that answered.
        error: Why there is no turn. It is retried, unless it begins with ``CONTEXT_FULL``.
        seconds: Time that the answer took.
        prompt_tokens: Tokens of the prompt as the server billed them; None: not reported.
        generated_tokens: Generated tokens as the server billed them; None: not reported.
    """

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
    """Answers states with turns: a model, a server, a script, the expert.

    Attributes:
        name: Stands in labels, logs and stores.
        needs_sandbox: Whether it looks into the sandbox (``State.sandbox``).
        needs_answer: Optional. True if it must see the gold patch, as the expert does.
        version: Optional. Identifies the weights, so that a store holds episodes of one version.
        submit: Optional. A method from one state to a ``Future[Reply]``, safe to call from many
            threads. Without it, states are collected for the next call of ``act``.
        ended: Optional. A method that is called with a key of an episode when that has ended, in
            whatever way, so that what is kept for it can be let go.
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
