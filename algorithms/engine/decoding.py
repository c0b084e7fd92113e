"""Decoding of many rows at once: one step of it serves ``HFPolicy.act`` and ``HFPolicy.submit``.

transformers' ``generate`` would compute the history of an episode again in every turn (on a CPU
most of the time), copy its whole cache for every token, and keep finished rows in the batch. The
step here takes the keys and values of earlier turns from a store (``kv.py``), and removes rows as
they finish.

``act`` has a fixed batch: it computes all prompts and then decodes until the last row is done, so
equal calls give equal bits. ``submit`` has an open batch: in each step, new rows take the free
places, at most ``PREFILL_TOKENS`` of their prompts are computed, and the others get one more token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from algorithms.engine.adapters import unwrap_adapter
from algorithms.engine.forward import check_model
from algorithms.engine.head import compute_logits
from algorithms.engine.kv import PrefixStore, RowCache
from algorithms.engine.row_attention import attending_rows
from algorithms.engine.sampling import sample
from algorithms.engine.tree import common_prefix_length
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Key, Reply

OPENING = ("opening",)  # key in the store of the beginning that episodes share
PREFILL_TOKENS = 1024  # slots of one prefill pass, padding included: enough to use the hardware
# A pass over few rows takes about as long as one over many, since all weights are read in each. So
# rows that arrive one after another enter an open batch together, after at most this many steps.
ENTER_ROWS, ENTER_STEPS = 8, 8


@dataclass(eq=False)
class Row:
    """One reply that is being generated.

    Attributes:
        key: Key of the state.
        ids: The prompt, and the tokens sampled so far.
        prompt: Number of tokens of the prompt.
        limit: Most tokens to sample.
        rng: Draws one number per sampled token.
        future: Receives the reply.
        logprobs: Log-probs of the sampled tokens.
        stored: How many tokens of the prompt came from the store.
        seconds: The row's share of the time of the steps that it was in.
        done: Whether the reply has ended.
        error: Why there is no reply.
    """

    key: Key
    ids: list[int]
    prompt: int
    limit: int
    rng: np.random.Generator
    future: Future[Reply] = field(default_factory=Future)
    logprobs: list[float] = field(default_factory=list)
    stored: int = 0
    seconds: float = 0.0
    done: bool = False
    error: Exception | None = None

    @property
    def episode(self) -> tuple[object, ...]:
        """The key without its turn: all turns that one role plays in one episode."""
        return (*self.key[:4], self.key[5])


@dataclass
class Batch:
    """Rows that share a cache, in the order of their places in it: ``active``, then ``entering``.

    Attributes:
        cache: The keys and values.
        waiting: Rows without a place, oldest first.
        entering: Rows whose prompt is being computed.
        active: Rows that get one token in each step.
        waited: Steps for which rows have waited although places were free.
    """

    cache: RowCache
    waiting: list[Row] = field(default_factory=list)
    entering: list[Row] = field(default_factory=list)
    active: list[Row] = field(default_factory=list)
    waited: int = 0

    def __bool__(self) -> bool:
        return bool(self.waiting or self.entering or self.active)

    @property
    def placed(self) -> list[Row]:
        """The rows that have a place in the cache."""
        return self.active + self.entering


class Decoder:
    """A model, how to sample from it, and the store of earlier turns' keys and values.

    Args:
        model: A model, with or without an adapter.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass to sample from.
        max_context: Most tokens of a row.
        batch_size: Most rows computed at once.
        cache_bytes: Size of the store.
        stop_ids: Tokens that end a reply.

    Attributes:
        sampled_tokens: Tokens sampled so far.
        prefilled_tokens: Prompt tokens computed so far, without those taken from the store.

    Raises:
        SetupError: The model is not supported.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        top_p: float,
        max_context: int,
        batch_size: int,
        cache_bytes: int,
        stop_ids: set[int],
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError("temperature must be >= 0 and top_p in (0, 1]")
        self.model = unwrap_adapter(model).eval()
        check_model(self.model)
        self.temperature, self.top_p = temperature, top_p
        self.max_context, self.batch_size = max_context, batch_size
        self.store, self.stop_ids = PrefixStore(cache_bytes), stop_ids
        self.sampled_tokens = self.prefilled_tokens = 0

    @torch.inference_mode()
    def fixed_batch(self, rows: list[Row]) -> Batch:
        """A batch that will be computed to its end without further rows."""
        self._compute_opening(rows)
        cache = self._cache(len(rows), max(row.prompt + row.limit for row in rows))
        return Batch(cache, list(rows))

    def open_batch(self) -> Batch:
        """An empty batch to which rows are added while it is computed; its cache grows."""
        return Batch(self._cache(0, 0))

    @torch.inference_mode()
    def step(self, batch: Batch, gradually: bool = False) -> list[Row]:
        """One more token for every active row, and the first one for rows that enter.

        Args:
            batch: The rows; they are changed.
            gradually: For an open batch. At most one piece of the waiting prompts is computed and
                not all of them, so that a long prompt does not stop the active rows. A row that
                makes the model raise an exception ends with it, which is then not raised here.

        Returns:
            The rows that are done, which have left the batch.
        """
        began = time.monotonic()
        try:
            logits = self._compute(batch, gradually)
        except SetupError:
            raise
        except Exception:  # a model may raise anything
            if not gradually:
                raise
            logits = self._compute_each(batch)
        if logits:
            self._sample(batch.active, torch.cat(logits))
        return self._end_step(batch, began)

    def _compute(self, batch: Batch, gradually: bool) -> list[torch.Tensor]:
        """Logits of all active rows, among which are then those that have entered."""
        logits: list[torch.Tensor] = []
        if batch.active:
            last = [row.ids[-1:] for row in batch.active]
            logits.append(self._forward(last, 0, batch.cache))
        if not gradually:
            for rows in self._pieces(batch.waiting):
                self._enter(batch, rows)
                logits += self._prefill(batch, gradually)
            return logits
        if not batch.entering:
            self._enter(batch, self._next_piece(batch))
        if batch.entering:
            logits += self._prefill(batch, gradually)
        return logits

    def _compute_each(self, batch: Batch) -> list[torch.Tensor]:
        """What :meth:`_compute` failed to compute, row by row, so that only its cause fails.

        The logits of a row with an error are zeros.
        """
        found: list[torch.Tensor | None] = []
        entering: list[Row] = []
        for place, row in enumerate(batch.placed):
            try:
                self._reserve(batch.cache, place + 1, row.prompt + row.limit)
                # The newest token may have been computed already: once more, for its logits.
                batch.cache.lengths[place].clamp_(max=len(row.ids) - 1)
                have = int(batch.cache.lengths[place])
                new = row.ids[have : have + PREFILL_TOKENS]
                logits = self._forward([new], place, batch.cache)
            except SetupError:
                raise
            except Exception as error:
                row.error = error
                found.append(None)
                continue
            if row in batch.entering:
                self.prefilled_tokens += len(new)
            if have + len(new) < len(row.ids):
                entering.append(row)  # in the last place, since a long prompt enters alone
            else:
                found.append(logits)
        batch.active = [row for row in batch.placed if row not in entering]
        batch.entering = entering
        blank = next((torch.zeros_like(one) for one in found if one is not None), None)
        if blank is None:  # there is nothing to sample, and who has an error leaves
            return []
        return [blank if one is None else one for one in found]

    def _compute_opening(self, rows: list[Row]) -> None:
        """Compute once what the new episodes of a fixed batch begin with, at least the system
        prompt.

        It stays in the store, so later episodes use it too.
        """
        new = [row for row in rows if row.episode not in self.store]
        if len(new) < 2 or self.store.match(OPENING, new[0].ids):
            return
        ids = new[0].ids
        if common := ids[: min(common_prefix_length(ids, row.ids) for row in new)]:
            cache = self._cache(1, len(common))
            self.prefilled_tokens += len(common)
            self._forward([common], 0, cache)
            self.store.save(OPENING, common, cache, 0)

    def _next_piece(self, batch: Batch) -> list[Row]:
        """The rows of an open batch to enter next: the oldest, and those that suit it.

        If nothing is known of how an episode begins, it enters alone, and its prompt becomes the
        shared beginning, so that what the others have in common with it is computed once.
        """
        candidates = batch.waiting[: self.batch_size - len(batch.active)]
        batch.waited = batch.waited + 1 if candidates else 0
        # The fewer rows are active, the longer it would be until another one arrives.
        patience = min(ENTER_STEPS, len(batch.active) // 4)
        if len(candidates) < ENTER_ROWS and batch.waited <= patience:
            return []
        batch.waited = 0
        known = [row for row in candidates if self._match(row)]
        if not candidates or candidates[0] not in known:
            return candidates[:1]
        return next(piece for piece in self._pieces(known) if candidates[0] in piece)

    def _pieces(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The rows in groups whose prompts are computed in one pass each.

        They are sorted by how many tokens are left to compute, so that a pass has little padding.
        """
        new = {row: row.prompt - self._match(row) for row in rows}
        rows = sorted(rows, key=lambda row: new[row])
        pieces: list[list[Row]] = []
        for row in rows:
            # Rows are sorted, so this one is the longest and sets the padded width.
            if pieces and new[row] * (len(pieces[-1]) + 1) <= PREFILL_TOKENS:
                pieces[-1].append(row)
            else:
                pieces.append([row])
        return pieces

    def _source(self, row: Row) -> tuple[object, ...]:
        """Key of the stored states that the row can start from."""
        return row.episode if row.episode in self.store else OPENING

    def _match(self, row: Row) -> int:
        """How many tokens of the prompt are in the store."""
        return self.store.match(self._source(row), row.ids)

    def _enter(self, batch: Batch, rows: list[Row]) -> None:
        """Give waiting rows the next places of the cache, and copy what the store has of them."""
        batch.waiting = [row for row in batch.waiting if row not in rows]
        batch.entering = rows = [r for r in rows if r.future.set_running_or_notify_cancel()]
        if not rows:
            return
        low, high = len(batch.active), len(batch.placed)
        batch.cache.lengths[low:high] = 0  # first: nothing stale if making room fails
        self._reserve(batch.cache, high, max(row.prompt + row.limit for row in rows))
        for place, row in enumerate(rows, low):
            source, row.stored = self._source(row), self._match(row)
            self.store.load(source, row.stored, batch.cache, place)
            # An episode moves from the store into the cache and back, so it is held only once. The
            # shared beginning stays: other episodes need it.
            if source is not OPENING:
                self.store.drop(source)

    def _reserve(self, cache: RowCache, rows: int, capacity: int) -> None:
        """Make room, in sizes that double: an open batch is copied only a few times."""
        if rows > cache.rows:
            rows = max(rows, min(self.batch_size, 2 * cache.rows))
        if capacity > cache.capacity:
            capacity = max(capacity, min(self.max_context, 2 * cache.capacity))
        if rows > cache.rows or capacity > cache.capacity:
            cache.grow(max(rows, cache.rows), max(capacity, cache.capacity))

    def _cache(self, rows: int, capacity: int) -> RowCache:
        config = self.model.config.get_text_config(decoder=True)
        return RowCache(config, rows, capacity, self.model.dtype, self.model.device)

    def _prefill(self, batch: Batch, gradually: bool) -> list[torch.Tensor]:
        """Compute what is not in the cache yet of the entering rows.

        Returns:
            Logits after the last token of each row, [rows, vocabulary]; nothing if a long prompt
            needs another pass.
        """
        most = PREFILL_TOKENS if gradually else self.max_context
        rows, low, cache = batch.entering, len(batch.active), batch.cache
        have = cache.lengths[low : low + len(rows)].tolist()
        new = [row.ids[length : length + most] for row, length in zip(rows, have, strict=True)]
        logits = self._forward(new, low, cache)
        self.prefilled_tokens += sum(map(len, new))
        if have[0] + len(new[0]) < rows[0].prompt:
            return []
        if gradually and not rows[0].stored:  # it entered alone: see _next_piece
            self.store.save(OPENING, rows[0].ids, cache, low)
        batch.active, batch.entering = batch.placed, []
        return [logits]

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
        with attending_rows(self.model.config):
            hidden = self.model.base_model(
                input_ids=ids.to(device),
                position_ids=positions,
                attention_mask=None,
                past_key_values=cache,
                use_cache=True,
                row_mask=mask,
            ).last_hidden_state
        cache.advance(counts.to(device))
        last = hidden[torch.arange(len(new_ids), device=device), counts.to(device) - 1]
        return compute_logits(self.model, last)

    def _sample(self, rows: list[Row], logits: torch.Tensor) -> None:
        uniform = [row.rng.random() if self.temperature else 0.0 for row in rows]
        tokens, logprobs = sample(logits, uniform, self.temperature, self.top_p)
        self.sampled_tokens += len(rows)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.done = token in self.stop_ids or len(row.ids) - row.prompt >= row.limit

    def _end_step(self, batch: Batch, began: float) -> list[Row]:
        """Remove the rows that are done and return them; they share the time of the step.

        Their states go into the store for their next turn. Gaps are closed in place: going
        backwards, the last row is never a finished one that is still to be handled.
        """
        share = (time.monotonic() - began) / max(1, len(batch.placed))
        for row in batch.placed:
            row.seconds += share
        rows, cache, done = batch.active, batch.cache, []
        before = len(rows)
        for index in reversed(range(before)):
            row = rows[index]
            if row.done or row.error is not None:
                done.append(row)
                if row.error is None:
                    self.store.save(row.episode, row.ids, cache, index)
                last = rows.pop()
                if index < len(rows):
                    cache.move(len(rows), index)
                    rows[index] = last
        if done:
            for place in range(len(batch.entering)):
                cache.move(before + place, len(rows) + place)
        return done
