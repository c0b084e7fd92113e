"""A Hugging Face model in this process as a policy: many episodes per call, nothing computed twice.

transformers' ``generate`` would compute the history of an episode again in every turn (on a CPU
most of the time), copy its whole cache for every token, and keep finished rows in the batch. The
loop here keeps the keys and values of each episode between turns (``kv.py``) and removes rows as
they finish.

Sampling draws one uniform number per token from a generator that is seeded by the key of the state,
and inverts the cumulative distribution with it. A reply therefore depends on the rest of the batch
only through the rounding of the logits: noticeable in bfloat16, about 1e-5 in float32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.engine.adapters import unwrap_adapter
from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.forward import check_model
from algorithms.engine.head import compute_logits
from algorithms.engine.kv import PrefixStore, RowCache, layer_masks
from algorithms.engine.rendering import Renderer, Thinking
from algorithms.engine.supported import layer_windows
from algorithms.engine.tree import common_prefix_length
from swe_gym_env.policies.base import CONTEXT_FULL, Key, Reply, State, keyed_rng

OPENING = ("opening",)  # key in the store of the beginning that episodes share
PREFILL_TOKENS = 1024  # slots of one prefill pass, padding included: enough to use the hardware


@dataclass
class _Row:
    """One reply that is being generated.

    Attributes:
        index: Position of the state in the call of ``act``.
        key: Key of the state.
        ids: The prompt, and the tokens sampled so far.
        prompt: Number of tokens of the prompt.
        limit: Most tokens to sample.
        rng: Draws one number per sampled token.
        logprobs: Log-probs of the sampled tokens.
        done: Whether the reply has ended.
    """

    index: int
    key: Key
    ids: list[int]
    prompt: int
    limit: int
    rng: np.random.Generator
    logprobs: list[float] = field(default_factory=list)
    done: bool = False


class HFPolicy:
    """Samples whole turns.

    The log-probs in a reply are of the distribution that its tokens were sampled from, after
    temperature and top-p, because importance ratios need that. Log-probs of greedy replies are at
    temperature 1.

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
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError("temperature must be >= 0 and top_p in (0, 1]")
        self.model, self.renderer = unwrap_adapter(model).eval(), Renderer(tokenizer, thinking)
        check_model(self.model)
        self._windows = layer_windows(self.model.config.get_text_config(decoder=True))
        self.temperature, self.top_p = temperature, top_p
        self.max_new_tokens, self.max_context, self.batch_size = (
            max_new_tokens,
            max_context,
            batch_size,
        )
        self.version, self.name = version, name
        self.store = PrefixStore(cache_bytes)
        eos = model.generation_config.eos_token_id
        eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        self.stop_ids = {self.renderer.end_id, *eos_ids}
        self.sampled_tokens = self.prefilled_tokens = 0

    @classmethod
    def from_folder(
        cls, folder: str | Path, dtype: torch.dtype = torch.bfloat16, **options: Any
    ) -> HFPolicy:
        """Load a checkpoint; ``version`` defaults to its path."""
        options.setdefault("version", str(folder))
        return cls(load_model(folder, dtype), load_tokenizer(folder), **options)

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order; a context that is full gives a reply with an error."""
        replies: list[Reply | None] = [None] * len(states)
        rows = []
        for index, state in enumerate(states):
            ids = self.renderer.prompt(state.system_prompt, state.turns, state.observation)
            room = self.max_context - len(ids)
            if room < 1:
                replies[index] = Reply(
                    error=f"{CONTEXT_FULL}: {len(ids)} tokens of history leave no room for a "
                    f"turn in serving.max_context={self.max_context}",
                    policy_version=self.version,
                )
                continue
            limit = min(self.max_new_tokens, room)
            rows.append(_Row(index, state.key, ids, len(ids), limit, keyed_rng(state.key)))
        for low in range(0, len(rows), self.batch_size):
            batch, started = rows[low : low + self.batch_size], time.monotonic()
            self._generate(batch)
            seconds = (time.monotonic() - started) / len(batch)
            for row in batch:
                replies[row.index] = self._reply(row, seconds)
        return [reply for reply in replies if reply is not None]

    def _reply(self, row: _Row, seconds: float) -> Reply:
        sampled = row.ids[row.prompt :]
        text_ids = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        return Reply(
            text=self.renderer.decode(text_ids),
            token_ids=tuple(sampled),
            logprobs=tuple(row.logprobs),
            policy_version=self.version,
            seconds=seconds,
        )

    @torch.inference_mode()
    def _generate(self, rows: list[_Row]) -> None:
        self._compute_opening(rows)
        active, cache = self._load(rows)
        logits = self._prefill(active, cache)
        while True:
            self._sample(active, logits)
            self._drop_done(active, cache)
            if not active:
                return
            logits = self._forward([row.ids[-1:] for row in active], 0, cache)

    def _compute_opening(self, rows: list[_Row]) -> None:
        """Compute once what the new episodes of a batch begin with, at least the system prompt.

        It stays in the store, so later episodes use it too.
        """
        new = [row for row in rows if _episode(row.key) not in self.store]
        if len(new) < 2 or self.store.match(OPENING, new[0].ids):
            return
        ids = new[0].ids
        if common := ids[: min(common_prefix_length(ids, row.ids) for row in new)]:
            cache = self._cache(1, len(common))
            self.prefilled_tokens += len(common)
            self._forward([common], 0, cache)
            self.store.save(OPENING, common, cache, 0)

    def _load(self, rows: list[_Row]) -> tuple[list[_Row], RowCache]:
        """Copy stored states into a new cache.

        Returns:
            The rows, sorted by how many tokens are left to compute, so that prefill batches need
            little padding; and the cache, with its rows in that order.
        """
        source = {row.index: self._source(row) for row in rows}
        stored = {row.index: self.store.match(source[row.index], row.ids) for row in rows}
        rows = sorted(rows, key=lambda row: row.prompt - stored[row.index])
        cache = self._cache(len(rows), max(row.prompt + row.limit for row in rows))
        for place, row in enumerate(rows):
            self.store.load(source[row.index], stored[row.index], cache, place)
            # An episode moves from the store into the cache and back, so it is held only once. The
            # shared beginning stays: other episodes need it.
            if source[row.index] is not OPENING:
                self.store.drop(source[row.index])
        return rows, cache

    def _source(self, row: _Row) -> tuple[object, ...]:
        """Key of the stored states that the row can start from."""
        episode = _episode(row.key)
        return episode if episode in self.store else OPENING

    def _cache(self, rows: int, capacity: int) -> RowCache:
        config = self.model.config.get_text_config(decoder=True)
        return RowCache(config, rows, capacity, self.model.dtype, self.model.device)

    def _prefill(self, rows: list[_Row], cache: RowCache) -> torch.Tensor:
        """Compute what is not in the cache yet, PREFILL_TOKENS at a time.

        Returns:
            Logits after the last token of each row, [rows, vocabulary].
        """
        lengths = cache.lengths.tolist()
        new_ids = [row.ids[length:] for row, length in zip(rows, lengths, strict=True)]
        self.prefilled_tokens += sum(map(len, new_ids))
        logits, low = [], 0
        while low < len(rows):
            high = low + 1
            # Rows are sorted, so the row at ``high`` is the longest and sets the padded width.
            while high < len(rows) and len(new_ids[high]) * (high + 1 - low) <= PREFILL_TOKENS:
                high += 1
            logits.append(self._forward(new_ids[low:high], low, cache))
            low = high
        return torch.cat(logits)

    def _forward(self, new_ids: list[list[int]], low: int, cache: RowCache) -> torch.Tensor:
        """Feed new ids to the cache rows from ``low`` on.

        Returns:
            Float32 logits after the last new id of each row, [rows, vocabulary].
        """
        counts = torch.tensor([len(ids) for ids in new_ids])
        width = int(counts.max())
        ids = torch.tensor([row + [0] * (width - len(row)) for row in new_ids])
        positions, mask = cache.window(low, low + len(new_ids), width)
        device = self.model.device
        hidden = self.model.base_model(
            input_ids=ids.to(device),
            position_ids=positions,
            attention_mask=layer_masks(mask, positions, self._windows),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.advance(counts.to(device))
        last = hidden[torch.arange(len(new_ids), device=device), counts.to(device) - 1]
        return compute_logits(self.model, last)

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> None:
        uniform = [row.rng.random() if self.temperature else 0.0 for row in rows]
        tokens = pick(logits, uniform, self.temperature, self.top_p)
        logprobs = sampled_logprobs(logits, tokens, self.temperature, self.top_p)
        self.sampled_tokens += len(rows)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.done = token in self.stop_ids or len(row.ids) - row.prompt >= row.limit

    def _drop_done(self, rows: list[_Row], cache: RowCache) -> None:
        """Store the states of finished rows for their next turn, and close the gaps in place.

        Going backwards, the last row is never a finished one that is still to be handled.
        """
        for index in reversed(range(len(rows))):
            row = rows[index]
            if row.done:
                self.store.save(_episode(row.key), row.ids, cache, index)
                last = rows.pop()
                if index < len(rows):
                    cache.move(len(rows), index)
                    rows[index] = last


def _episode(key: Key) -> tuple[object, ...]:
    """The key without its turn: all turns that one role plays in one episode."""
    return (*key[:4], key[5])


def pick(
    logits: torch.Tensor, uniform: Sequence[float], temperature: float, top_p: float
) -> torch.Tensor:
    """Sample one token per row by inverting the cumulative distribution.

    Top-p keeps the most likely tokens, up to and including the one that reaches ``top_p``.

    Args:
        logits: Shape [rows, vocabulary].
        uniform: A number in [0, 1) for each row.
        temperature: 0 takes the most likely token.
        top_p: Probability mass to keep.

    Returns:
        Token ids, [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs, order = (logits / temperature).softmax(-1), None
    if top_p < 1:
        probs, order = _nucleus(probs, top_p)
    mass = probs.double().cumsum(-1)
    # Scaled by the total mass, which is below 1 after top-p.
    aim = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
    index = torch.searchsorted(mass, aim, right=True).clamp_(max=mass.shape[-1] - 1)
    return (index if order is None else order.gather(1, index))[:, 0]


def sampled_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Log-probs of ``tokens``, [rows], in the distribution that :func:`pick` samples them from.

    At temperature 0 they are of the distribution at temperature 1.
    """
    logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
    sampled = logprobs.gather(1, tokens[:, None])[:, 0]
    if temperature and top_p < 1:  # divide by the mass that top-p keeps
        sampled = sampled - _nucleus(logprobs.exp(), top_p)[0].double().sum(-1).log().float()
    return sampled


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of a distribution that top-p keeps.

    Sorting a vocabulary is slow, so the 256 most likely tokens are tried first.

    Returns:
        Probabilities, largest first and 0 outside of the nucleus, and the tokens they belong to.
    """
    kept, order = probs.topk(min(256, probs.shape[-1]))
    if bool((kept.sum(-1) < top_p).any()) and kept.shape[-1] < probs.shape[-1]:
        kept, order = probs.sort(descending=True)
    before = kept.cumsum(-1) - kept  # a token is kept if those before it do not reach top_p
    return kept.masked_fill(before >= top_p, 0.0), order
