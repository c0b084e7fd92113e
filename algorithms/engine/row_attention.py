"""Attention of decoding, registered with transformers under the name ``cached_rows``.

Rows of a batch have histories of very different length. One masked product over all of them reads
as many keys for each row as for the longest, and on a CPU, long rows make this reading take longer
than all matrix products of a step. So each row attends over its own length, in a separate call;
neighbors that are about equally long share a call, with a mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CACHED_ROWS = "cached_rows"
# One more call takes as long as reading the keys and values of so many slots. On a GPU all rows
# share one call.
CALL = 64


class Group(NamedTuple):
    """The rows ``low:high`` of a pass, which attend in one call.

    Attributes:
        low: First row.
        high: One past the last row.
        begin: First slot that any of the rows sees.
        end: One past the last slot that any of them sees.
        mask: Additive, [rows, 1, group * width, end - begin]; None if each row sees all of them.
            ``group`` is the number of query heads that share a key head.
    """

    low: int
    high: int
    begin: int
    end: int
    mask: torch.Tensor | None


class RowMask:
    """What the new tokens of a pass see: the slots of their row up to their own.

    In a layer with a sliding window, only the last ``window`` of these. It is made once per pass
    and used by all layers.

    Args:
        slots: Slot of each new token, [rows, width], on the device of the model; each row's are
            consecutive and limited to the last slot of the cache.
        group: Number of query heads that share a key head.
        dtype: Precision of the model.
    """

    def __init__(self, slots: torch.Tensor, group: int, dtype: torch.dtype) -> None:
        self._slots, self._group, self._dtype = slots, group, dtype
        self._groups: dict[int | None, list[Group]] = {}

    @cached_property
    def _ends(self) -> list[list[int]]:
        """First and last new slot of each row, read back from the device."""
        return self._slots[:, [0, -1]].tolist()  # type: ignore[no-any-return]

    def groups(self, window: int | None) -> list[Group]:
        """The groups, which together cover all rows in order."""
        if window not in self._groups:
            spans = self._spans(window)
            self._groups[window] = [self._group_of(span, window) for span in spans]
        return self._groups[window]

    def _spans(self, window: int | None) -> list[tuple[int, int, int, int]]:
        """Low, high, begin and end of each group.

        A row joins the one above it if that adds fewer slots to read than a call is worth.
        """
        call = CALL / self._slots.shape[1] if self._slots.device.type == "cpu" else math.inf
        spans: list[tuple[int, int, int, int]] = []
        for row, (first, last) in enumerate(self._ends):
            begin, end = 0 if window is None else max(0, first - window + 1), last + 1
            if spans:
                low, _, least, most = spans[-1]
                wide = (row + 1 - low) * (max(most, end) - min(least, begin))
                if wide <= (row - low) * (most - least) + end - begin + call:
                    spans[-1] = low, row + 1, min(least, begin), max(most, end)
                    continue
            spans.append((row, row + 1, begin, end))
        return spans

    def _group_of(self, span: tuple[int, int, int, int], window: int | None) -> Group:
        low, high, _, end = span
        width = self._slots.shape[1]
        if width == 1 and all(last + 1 == end for _, last in self._ends[low:high]):
            return Group(*span, None)
        return self._masked(span, window)

    def _masked(self, span: tuple[int, int, int, int], window: int | None) -> Group:
        low, high, begin, end = span
        width = self._slots.shape[1]
        seen = torch.arange(begin, end, device=self._slots.device)
        own = self._slots[low:high, :, None]
        hidden = seen > own
        if window is not None:
            hidden |= seen <= own - window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
        mask.masked_fill_(hidden, float("-inf"))
        # The queries of the heads that share a key head follow one another.
        mask = mask[:, None].expand(-1, self._group, -1, -1)
        return Group(*span, mask.reshape(high - low, 1, self._group * width, end - begin))


def cached_rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    *,
    row_mask: RowMask,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls in each layer, for rows of a cache.

    ``forward.check_model`` has refused models whose attention does more.

    Args:
        module: The attention layer; not used.
        query: Shape [rows, heads, width, d].
        key: Shape [rows, kv heads, slots, d].
        value: Shape [rows, kv heads, slots, e].
        attention_mask: Not used; ``row_mask`` takes its place.
        scaling: Factor of the scores; None for 1 / sqrt(d).
        dropout: Not used.
        sliding_window: Number of tokens that a token sees, itself included; None: all.
        row_mask: What each row sees, passed through the model's forward call.
        **options: What else transformers passes for this model.

    Returns:
        The output, [rows, width, heads, e], and None in place of the attention weights.
    """
    rows, heads, width, dim = query.shape
    # Query heads that share a key head become rows of one product, so that no key is copied.
    grouped = query.reshape(rows, key.shape[1], -1, dim)
    out = grouped.new_empty(*grouped.shape[:3], value.shape[-1])
    for low, high, begin, end, mask in row_mask.groups(sliding_window):
        out[low:high] = scaled_dot_product_attention(
            grouped[low:high],
            key[low:high, :, begin:end],
            value[low:high, :, begin:end],
            attn_mask=mask,
            scale=scaling,
        )
    return out.view(rows, heads, width, -1).transpose(1, 2).contiguous(), None


@contextmanager
def attending_rows(config: Any) -> Iterator[None]:
    """Switch the attention of the model with this configuration for the duration of the block.

    ``set_attn_implementation`` would check the whole model again, twice in each step.
    """
    before = config._attn_implementation
    config._attn_implementation = CACHED_ROWS
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(CACHED_ROWS, cached_rows_attention)
