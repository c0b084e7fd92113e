"""A Hugging Face model in this process as a policy: many episodes at once, nothing computed twice.

States become rows of token ids here, and rows become replies; ``decoding.py`` computes them. They
come in fixed batches (:meth:`HFPolicy.act`) or one by one at any time (:meth:`HFPolicy.submit`).

Sampling draws one uniform number per token from a generator that is seeded by the key of the state,
and inverts the cumulative distribution with it. A reply therefore depends on the rest of the batch
only through the rounding of the logits: noticeable in bfloat16, about 1e-5 in float32.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.continuous import ContinuousEngine
from algorithms.engine.decoding import Decoder, Row
from algorithms.engine.rendering import Renderer, Thinking
from swe_gym_env.policies.base import CONTEXT_FULL, Reply, State, keyed_rng


class HFPolicy(Decoder):
    """Samples whole turns.

    The log-probs in a reply are of the distribution that its tokens were sampled from, after
    temperature and top-p, because importance ratios need that. Log-probs of greedy replies are at
    temperature 1. ``seconds`` of a reply is its share of the time of the steps that it was in, so
    the sum over all replies is the time that the model computed.

    Args:
        model: A model, with or without an adapter.
        tokenizer: Its tokenizer, with a chat template.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass to sample from.
        max_new_tokens: Most tokens in a turn.
        max_context: Most tokens of history and turn together.
        batch_size: Most episodes computed at once.
        cache_bytes: Size of the store of earlier turns' keys and values.
        version: Identifies the weights; stored with every turn.
        name: Name of the policy.
        thinking: How earlier thoughts are laid out (:class:`Renderer`).

    Attributes:
        stop_ids: Tokens that end a turn.
        sampled_tokens: Tokens sampled so far.
        prefilled_tokens: Prompt tokens computed so far, without those taken from the store.

    Raises:
        SetupError: The model or its chat template is not supported.
    """

    needs_sandbox = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 128,
        max_context: int = 4096,
        batch_size: int = 32,
        cache_bytes: int = 2 << 30,
        version: str = "",
        name: str = "student",
        thinking: Thinking = "kept",
    ) -> None:
        self.renderer = Renderer(tokenizer, thinking)
        eos = model.generation_config.eos_token_id
        eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        super().__init__(
            model,
            temperature=temperature,
            top_p=top_p,
            max_context=max_context,
            batch_size=batch_size,
            cache_bytes=cache_bytes,
            stop_ids={self.renderer.end_id, *eos_ids},
        )
        self.max_new_tokens, self.version, self.name = max_new_tokens, version, name
        self._engine = ContinuousEngine(self, self._finish)
        self._text = threading.Lock()  # a tokenizer must not be used by two threads at once

    @classmethod
    def from_folder(
        cls, folder: str | Path, dtype: torch.dtype = torch.bfloat16, **options: Any
    ) -> HFPolicy:
        """Load a checkpoint; ``version`` defaults to its path."""
        options.setdefault("version", str(folder))
        return cls(load_model(folder, dtype), load_tokenizer(folder), **options)

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order; a context that is full gives a reply with an error."""
        rows = [self._row(state) for state in states]
        todo = [row for row in rows if not row.future.done()]
        for low in range(0, len(todo), self.batch_size):
            with self._engine.paused():
                batch = self.fixed_batch(todo[low : low + self.batch_size])
                while batch:
                    for row in self.step(batch):
                        row.future.set_result(self._reply(row))
        return [row.future.result() for row in rows]

    def submit(self, state: State) -> Future[Reply]:
        """The reply to one state as soon as it is complete, computed together with others.

        It joins those that are being computed, up to ``batch_size``, and waits for none of them.
        An exception for this state alone is the future's exception. A thread of this object
        computes; it ends with :meth:`close`, or when nothing was asked for some seconds.

        Raises:
            SetupError: The model cannot be used; the reply to an earlier state showed it.
        """
        try:
            row = self._row(state)
        except Exception as error:
            failed: Future[Reply] = Future()
            failed.set_exception(error)
            return failed
        if not row.future.done():
            self._engine.add(row)
        return row.future

    def close(self) -> None:
        """End the thread of :meth:`submit`; open futures get a PolicyError. The policy stays
        usable."""
        self._engine.close()

    def _row(self, state: State) -> Row:
        """A row for the state; if it does not fit the context, with the reply that says so."""
        with self._text:
            ids = self.renderer.prompt(state.system_prompt, state.turns, state.observation)
        room = self.max_context - len(ids)
        row = Row(state.key, ids, len(ids), min(self.max_new_tokens, room), keyed_rng(state.key))
        if room < 1:
            row.future.set_result(
                Reply(
                    error=f"{CONTEXT_FULL}: {len(ids)} tokens of history leave no room for a "
                    f"turn in serving.max_context={self.max_context}",
                    policy_version=self.version,
                )
            )
        return row

    def _finish(self, row: Row) -> None:
        """Deliver the reply of a row, or why there is none."""
        try:
            if row.error is not None:
                raise row.error
            row.future.set_result(self._reply(row))
        except Exception as error:
            row.future.set_exception(error)

    def _reply(self, row: Row) -> Reply:
        sampled = row.ids[row.prompt :]
        text_ids = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        with self._text:
            text = self.renderer.decode(text_ids)
        return Reply(
            text=text,
            token_ids=tuple(sampled),
            logprobs=tuple(row.logprobs),
            policy_version=self.version,
            seconds=row.seconds,
        )
