"""A turn of a served student: the request that a state becomes, and the reply in the answer.

Two send such requests: the process that keeps the servers (``vllm_policy.py``), and an episode on
another machine (``remote.py``). So nothing here knows a server, and all of it pickles, the
tokenizer included: a machine that plays needs neither the model's folder nor torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from algorithms.engine.rendering import Renderer
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL, Reply, State, keyed_rng
from swe_gym_env.policies.refusal import within

T = TypeVar("T")


class Endpoint(Protocol):
    """Where one episode asks."""

    def check(self) -> None:
        """PolicyError unless the version that was asked for is served."""

    def request(self, body: dict[str, Any], read: Callable[[Any], T | None]) -> T:
        """What ``read`` finds in the answer's JSON. PolicyError if there is no usable answer."""

    def context_limit(self) -> int:
        """Most tokens of prompt and turn that the server takes; 0 if unknown."""


class TurnSampler:
    """How a student is sampled from.

    Args:
        renderer: Renderer of the student.
        stop_ids: Tokens that end a turn.
        version: Stands in replies as their ``policy_version``.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass to sample from.
        max_new_tokens: Most tokens in a turn.
        max_context: Most tokens of history and turn together.
    """

    def __init__(
        self,
        renderer: Renderer,
        stop_ids: Sequence[int],
        version: str,
        *,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 128,
        max_context: int = 4096,
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError("temperature must be >= 0 and top_p in (0, 1]")
        self.renderer, self.stop_ids, self._version = renderer, set(stop_ids), version
        self.max_new_tokens, self.max_context = max_new_tokens, max_context
        self._request = {
            "temperature": temperature,
            "top_p": top_p if temperature else 1.0,
            "stop_token_ids": sorted(self.stop_ids),
            "logprobs": 0,  # of the sampled token only
            "return_token_ids": True,
        }

    def reply(self, state: State, endpoint: Endpoint) -> Reply:
        """The turn; a reply with an error where it could not be had, or where the server's weights
        were exchanged meanwhile. SetupError if a server cannot be kept running."""
        try:
            endpoint.check()
            reply = self._reply(state, endpoint)
            endpoint.check()
        except PolicyError as error:
            return self._failed(str(error))
        return reply

    def _reply(self, state: State, endpoint: Endpoint) -> Reply:
        started = time.monotonic()
        ids = self.renderer.prompt(state.system_prompt, state.turns, state.observation)
        room = self.max_context - len(ids)
        if room < 1:
            return self._failed(
                f"{CONTEXT_FULL}: {len(ids)} tokens of history leave no room for a turn in "
                f"serving.max_context={self.max_context}"
            )
        body = {
            **self._request,
            "prompt": ids,
            "seed": int(keyed_rng(state.key).integers(2**31)),
        }
        sampled, logprobs = within(
            lambda tokens: endpoint.request({**body, "max_tokens": tokens}, _sampled),
            min(self.max_new_tokens, room),
            lambda: 0 < endpoint.context_limit() <= len(ids),
        )
        text_ids = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        return Reply(
            text=self.renderer.decode(text_ids),
            token_ids=tuple(sampled),
            logprobs=tuple(logprobs),
            policy_version=self._version,
            seconds=time.monotonic() - started,
            prompt_tokens=len(ids),
            generated_tokens=len(sampled),
        )

    def _failed(self, error: str) -> Reply:
        return Reply(error=error, policy_version=self._version)


def _sampled(answer: Any) -> tuple[list[int], list[float]] | None:
    """The sampled ids and their log-probs; None if the answer was aborted or is incomplete."""
    choice = answer["choices"][0]
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if choice["finish_reason"] not in ("stop", "length") or not ids or len(ids) != len(logprobs):
        return None
    return [int(id) for id in ids], [float(logprob) for logprob in logprobs]
