"""A student served by vLLM as a policy: token ids in, token ids and their log-probs out.

It renders and reads as :class:`~algorithms.engine.hf_policy.HFPolicy` does, so an episode does not
tell which of them played it, but for the random numbers. Log-probs are of the distribution that the
tokens were drawn from, at this temperature and with what top-p left: servers are started with
``--logprobs-mode processed_logprobs``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from algorithms.engine.rendering import Renderer
from algorithms.serving.fleet import Fleet
from algorithms.serving.weights import Version
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL, Reply, State, keyed_rng
from swe_gym_env.policies.refusal import within


class VLLMPolicy:
    """Asks ``fleet`` for ``version`` and nothing else. ``stop_ids`` end a turn."""

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
        self._request = {
            "temperature": temperature,
            "top_p": top_p if temperature else 1.0,
            "stop_token_ids": sorted(self.stop_ids),
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
        }

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order. SetupError where a server cannot be kept running."""
        if not states:
            return []
        try:
            self.fleet.check(self.version)
            replies = self._ask_all(states)
            self.fleet.check(self.version)
        except PolicyError as error:
            return [self._failed(str(error))] * len(states)
        return replies

    def _ask_all(self, states: Sequence[State]) -> list[Reply]:
        """Side by side. Interrupted, it waits for none of them."""
        pool = ThreadPoolExecutor(min(self.fleet.concurrency, len(states)), "request")
        try:
            return list(pool.map(self._reply, states))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, state: State) -> Reply:
        began = time.monotonic()
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
                lambda tokens: self.fleet.ask(
                    self.version, state.key, {**body, "max_tokens": tokens}, _sampled
                ),
                min(self.max_new_tokens, room),
                lambda: 0 < self.fleet.limit(self.version, state.key) <= len(ids),
            )
        except PolicyError as error:
            return self._failed(str(error))
        words = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        return Reply(
            text=self.renderer.decode(words),
            token_ids=tuple(sampled),
            logprobs=tuple(logprobs),
            policy_version=str(self.version.folder),
            seconds=time.monotonic() - began,
            prompt_tokens=len(ids),
            generated_tokens=len(sampled),
        )

    def _failed(self, error: str) -> Reply:
        return Reply(error=error, policy_version=str(self.version.folder))


def _sampled(said: Any) -> tuple[list[int], list[float]] | None:
    """Ids and log-probs, one for one. An answer that was cut off is none."""
    choice = said["choices"][0]
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if choice["finish_reason"] not in ("stop", "length") or not ids or len(ids) != len(logprobs):
        return None
    return [int(id) for id in ids], [float(logprob) for logprob in logprobs]
