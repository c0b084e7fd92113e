"""A Hugging Face model in this process as a policy: many episodes per call, nothing computed twice.

Plain ``generate`` would recompute an episode's history in every turn (most of the time on a CPU),
grow its cache by copying all of it for every token, and keep finished rows in the batch. The loop
here keeps each episode's keys and values between turns and drops rows as they finish.

Sampling draws one uniform number per token from a generator keyed by the state's key, and inverts
the distribution's cumulative sum with it: an answer depends on what else is in the batch only
through the rounding of the logits (which is real in bfloat16, and nil in float32 to about 1e-5).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.engine.adapters import plain
from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.forward import check_model
from algorithms.engine.head import logits_of
from algorithms.engine.kv import PrefixStore, RowCache, masks
from algorithms.engine.rendering import Renderer, Thinking
from algorithms.engine.supported import layer_windows
from algorithms.engine.tree import in_common
from swe_gym_env.policies.base import CONTEXT_FULL, Key, Reply, State, keyed_rng

OPENING = ("opening",)  # in the store: what the episodes begin with
PREFILL_TOKENS = 1024  # slots of one prefill pass: enough to keep the matrix units busy


@dataclass
class _Row:
    """One answer in the making. ``ids`` are the prompt and what was sampled so far."""

    place: int
    key: Key
    ids: list[int]
    prompt: int
    limit: int
    rng: np.random.Generator
    logprobs: list[float] = field(default_factory=list)
    done: bool = False


class HFPolicy:
    """Samples whole turns. ``logprobs`` are of the distribution that the tokens were drawn from,
    at this temperature and with what top-p left, which is what an importance ratio needs; greedy
    ones are of the model's own, at temperature 1."""

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
        self.model, self.renderer = plain(model).eval(), Renderer(tokenizer, thinking)
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
        also = eos if isinstance(eos, list) else [] if eos is None else [eos]
        self.stop_ids = {self.renderer.end_id, *also}
        self.sampled_tokens = self.prefilled_tokens = 0

    @classmethod
    def from_folder(
        cls, folder: str | Path, dtype: torch.dtype = torch.bfloat16, **options: Any
    ) -> HFPolicy:
        """Load a checkpoint; ``version`` defaults to its path."""
        options.setdefault("version", str(folder))
        return cls(load_model(folder, dtype), load_tokenizer(folder), **options)

    def act(self, states: Sequence[State]) -> list[Reply]:
        """One reply per state, in order, at most ``batch_size`` of them in one batch."""
        replies: list[Reply | None] = [None] * len(states)
        rows = []
        for place, state in enumerate(states):
            ids = self.renderer.prompt(state.system_prompt, state.turns, state.observation)
            room = self.max_context - len(ids)
            if room < 1:
                replies[place] = Reply(
                    error=f"{CONTEXT_FULL}: {len(ids)} tokens of history leave no room for a "
                    f"turn in serving.max_context={self.max_context}",
                    policy_version=self.version,
                )
                continue
            limit = min(self.max_new_tokens, room)
            rows.append(_Row(place, state.key, ids, len(ids), limit, keyed_rng(state.key)))
        for low in range(0, len(rows), self.batch_size):
            batch, started = rows[low : low + self.batch_size], time.monotonic()
            self._generate(batch)
            seconds = (time.monotonic() - started) / len(batch)
            for row in batch:
                replies[row.place] = self._reply(row, seconds)
        return [reply for reply in replies if reply is not None]

    def _reply(self, row: _Row, seconds: float) -> Reply:
        sampled = row.ids[row.prompt :]
        words = sampled[:-1] if sampled[-1] in self.stop_ids else sampled
        return Reply(
            text=self.renderer.decode(words),
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
        """Episodes begin alike, at least with the system prompt: what the new ones have in common
        is computed once, and stays in the store for those that come later."""
        fresh = [row for row in rows if _episode(row.key) not in self.store]
        if len(fresh) < 2 or self.store.match(OPENING, fresh[0].ids):
            return
        ids = fresh[0].ids
        if common := ids[: min(in_common(ids, row.ids) for row in fresh)]:
            cache = self._cache(1, len(common))
            self.prefilled_tokens += len(common)
            self._forward([common], 0, cache)
            self.store.save(OPENING, common, cache, 0)

    def _load(self, rows: list[_Row]) -> tuple[list[_Row], RowCache]:
        """Bring back what earlier turns computed; rows with alike amounts of news lie together."""
        source = {row.place: self._source(row) for row in rows}
        kept = {row.place: self.store.match(source[row.place], row.ids) for row in rows}
        rows = sorted(rows, key=lambda row: row.prompt - kept[row.place])
        cache = self._cache(len(rows), max(row.prompt + row.limit for row in rows))
        for index, row in enumerate(rows):
            self.store.load(source[row.place], kept[row.place], cache, index)
            if source[row.place] is not OPENING:
                self.store.drop(source[row.place])
        return rows, cache

    def _source(self, row: _Row) -> tuple[object, ...]:
        episode = _episode(row.key)
        return episode if episode in self.store else OPENING

    def _cache(self, rows: int, capacity: int) -> RowCache:
        config = self.model.config.get_text_config(decoder=True)
        return RowCache(config, rows, capacity, self.model.dtype, self.model.device)

    def _prefill(self, rows: list[_Row], cache: RowCache) -> torch.Tensor:
        """Compute the news of all rows, as many at once as fit; logits after each row's last id."""
        lengths = cache.lengths.tolist()
        news = [row.ids[length:] for row, length in zip(rows, lengths, strict=True)]
        self.prefilled_tokens += sum(map(len, news))
        logits, low = [], 0
        while low < len(rows):
            high = low + 1
            while high < len(rows) and len(news[high]) * (high + 1 - low) <= PREFILL_TOKENS:
                high += 1
            logits.append(self._forward(news[low:high], low, cache))
            low = high
        return torch.cat(logits)

    def _forward(self, news: list[list[int]], low: int, cache: RowCache) -> torch.Tensor:
        """Feed each row its new ids; float32 logits (rows, vocabulary) after the last of them."""
        counts = torch.tensor([len(ids) for ids in news])
        width = int(counts.max())
        ids = torch.tensor([row + [0] * (width - len(row)) for row in news])
        positions, mask = cache.window(low, low + len(news), width)
        device = self.model.device
        hidden = self.model.base_model(
            input_ids=ids.to(device),
            position_ids=positions,
            attention_mask=masks(mask, positions, self._windows),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.advance(counts.to(device))
        last = hidden[torch.arange(len(news), device=device), counts.to(device) - 1]
        return logits_of(self.model, last)

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> None:
        uniform = [row.rng.random() if self.temperature else 0.0 for row in rows]
        tokens = pick(logits, uniform, self.temperature, self.top_p)
        logprobs = drawn_logprobs(logits, tokens, self.temperature, self.top_p)
        self.sampled_tokens += len(rows)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.done = token in self.stop_ids or len(row.ids) - row.prompt >= row.limit

    def _drop_done(self, rows: list[_Row], cache: RowCache) -> None:
        """Keep the states of finished rows for the next turn and close the gaps, in place."""
        for index in reversed(range(len(rows))):
            row = rows[index]
            if row.done:
                self.store.save(_episode(row.key), row.ids, cache, index)
                last = rows.pop()
                if index < len(rows):
                    cache.move(len(rows), index)
                    rows[index] = last


def _episode(key: Key) -> tuple[object, ...]:
    return (*key[:4], key[5])


def pick(
    logits: torch.Tensor, uniform: Sequence[float], temperature: float, top_p: float
) -> torch.Tensor:
    """One token per row of ``logits``: the (tempered, cut) distribution inverted at ``uniform``.

    Top-p keeps the most likely tokens up to and with the one that reaches the mass ``top_p``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs, order = (logits / temperature).softmax(-1), None
    if top_p < 1:
        probs, order = _nucleus(probs, top_p)
    mass = probs.double().cumsum(-1)
    aim = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
    found = torch.searchsorted(mass, aim, right=True).clamp_(max=mass.shape[-1] - 1)
    return (found if order is None else order.gather(1, found))[:, 0]


def drawn_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Of ``tokens`` (rows,) in the distribution that :func:`pick` draws them from; at temperature 0
    in that of temperature 1."""
    logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
    found = logprobs.gather(1, tokens[:, None])[:, 0]
    if temperature and top_p < 1:
        found = found - _nucleus(logprobs.exp(), top_p)[0].double().sum(-1).log().float()
    return found


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The probabilities that top-p keeps, largest first, 0 for those that it does not, and whose
    they are."""
    kept, order = probs.topk(min(256, probs.shape[-1]))
    if bool((kept.sum(-1) < top_p).any()) and kept.shape[-1] < probs.shape[-1]:
        kept, order = probs.sort(descending=True)
    before = kept.cumsum(-1) - kept
    return kept.masked_fill(before >= top_p, 0.0), order
