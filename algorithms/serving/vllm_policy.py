"""A student served by vLLM as a policy: token ids in, token ids and their log-probs out.

It lays out conversations and reads replies as :class:`~algorithms.engine.hf_policy.HFPolicy` does,
so episodes of the two differ in their random numbers only. Log-probs are of the distribution that
the tokens were sampled from, after temperature and top-p, which importance ratios need: servers are
started with ``--logprobs-mode processed_logprobs``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from algorithms.engine.rendering import Renderer
from algorithms.serving.fleet import Fleet
from algorithms.serving.weights import Version
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL, Key, Reply, State, keyed_rng
from swe_gym_env.policies.refusal import within
from swe_gym_env.policies.submit import act_by_submit


class VLLMPolicy:
    """Asks a fleet for turns of one version.

    Args:
        fleet: The servers.
        version: The version to ask for; turns of any other version are errors.
        renderer: Renderer of the student.
        stop_ids: Tokens that end a turn.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass to sample from.
        max_new_tokens: Most tokens in a turn.
        max_context: Most tokens of history and turn together.
        name: Name of the policy.
    """

    needs_sandbox = False

    def __init__(
        self,
        fleet: Fleet,
        version: Version,
        renderer: Renderer,
        stop_ids: Sequence[int],
        *,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 128,
        max_context: int = 4096,
        name: str = "student",
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError("temperature must be >= 0 and top_p in (0, 1]")
        self.fleet, self.version, self.renderer, self.name = fleet, version, renderer, name
        self.stop_ids = set(stop_ids)
        self.max_new_tokens, self.max_context = max_new_tokens, max_context
        self._requests = ThreadPoolExecutor(fleet.concurrency, "request")  # no thread yet
        self._request = {
            "temperature": temperature,
            "top_p": top_p if temperature else 1.0,
            "stop_token_ids": sorted(self.stop_ids),
            "logprobs": 0,  # of the sampled token only
            "return_token_ids": True,
        }

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order; see :meth:`submit`."""
        return act_by_submit(self, states)

    def submit(self, state: State) -> Future[Reply]:
        """Ask for one state. At most ``fleet.concurrency`` requests are under way.

        A reply that could not be had is a reply with an error; so is one during which the server's
        weights were exchanged. SetupError if a server cannot be kept running.
        """
        return self._requests.submit(self._checked_reply, state)

    def ended(self, key: Key) -> None:
        """The next episode at its server may take its place."""
        self.fleet.ended(key)

    def _checked_reply(self, state: State) -> Reply:
        try:
            self.fleet.check(self.version, state.key)
            reply = self._reply(state)
            self.fleet.check(self.version, state.key)
        except PolicyError as error:
            return self._failed(str(error))
        return reply

    def _reply(self, state: State) -> Reply:
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
        try:
            sampled, logprobs = within(
                lambda tokens: self.fleet.request(
                    self.version, state.key, {**body, "max_tokens": tokens}, _sampled
                ),
                min(self.max_new_tokens, room),
                lambda: 0 < self.fleet.context_limit(self.version, state.key) <= len(ids),
            )
        except PolicyError as error:
            return self._failed(str(error))
        text_ids = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        return Reply(
            text=self.renderer.decode(text_ids),
            token_ids=tuple(sampled),
            logprobs=tuple(logprobs),
            policy_version=str(self.version.folder),
            seconds=time.monotonic() - started,
            prompt_tokens=len(ids),
            generated_tokens=len(sampled),
        )

    def _failed(self, error: str) -> Reply:
        return Reply(error=error, policy_version=str(self.version.folder))


def _sampled(answer: Any) -> tuple[list[int], list[float]] | None:
    """The sampled ids and their log-probs; None if the answer was aborted or is incomplete."""
    choice = answer["choices"][0]
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if choice["finish_reason"] not in ("stop", "length") or not ids or len(ids) != len(logprobs):
        return None
    return [int(id) for id in ids], [float(logprob) for logprob in logprobs]
