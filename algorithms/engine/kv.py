"""Keys and values of many episodes, so that a turn pays only for what is new in it.

``RowCache`` is what the model sees during one call: row-wise buffers of fixed size in which every
row has its own length, filled from the left. No padding on the left, no growing by copying, and a
finished row is dropped by moving the last row into its place. ``PrefixStore`` keeps each episode's
rows between calls, oldest out first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.engine.tree import in_common


class RowCache:
    """Speaks the part of transformers' cache protocol that decoder attention uses.

    ``keys`` and ``values`` are (layers, rows, heads, capacity, dim). Before a forward pass,
    :meth:`window` says which rows take part and how long each is.
    """

    is_compileable = False

    def __init__(
        self, config: Any, rows: int, capacity: int, dtype: torch.dtype, device: Any
    ) -> None:
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        # One slot more than any row can fill: what a short row gets as filling may land there.
        self._spill = capacity
        shape = (config.num_hidden_layers, rows, heads, capacity + 1, dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    def window(self, low: int, high: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows low..high get ``width`` new slots each. Returns position ids and an additive mask.

        A row with fewer new tokens is filled up on the right; what lands there is never visible
        to a real token and is overwritten by those that follow.
        """
        lengths = self.lengths[low:high]
        positions = lengths[:, None] + torch.arange(width, device=lengths.device)
        self._rows = slice(low, high)
        self._slots = positions.clamp(max=self._spill)
        self._end = int(self._slots.max()) + 1
        self._index = torch.arange(high - low, device=lengths.device)[:, None]
        slots = torch.arange(self._end, device=lengths.device)
        hidden = slots > self._slots[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=lengths.device)
        return positions, mask.masked_fill_(hidden, float("-inf"))[:, None]

    def advance(self, counts: torch.Tensor) -> None:
        """The rows of the window have grown by ``counts`` real tokens."""
        self.lengths[self._rows] += counts

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the new states into their slots; return all that any row may look at."""
        all_keys, all_values = self.keys[layer, self._rows], self.values[layer, self._rows]
        all_keys[self._index, :, self._slots] = keys.transpose(1, 2)
        all_values[self._index, :, self._slots] = values.transpose(1, 2)
        return all_keys[:, :, : self._end], all_values[:, :, : self._end]

    def get_seq_length(self, *_: Any) -> int:
        return int(self.lengths[self._rows].max())

    def move(self, source: int, target: int) -> None:
        """Row ``source`` takes the place of row ``target``."""
        length = int(self.lengths[source])
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length


def masks(
    mask: torch.Tensor, positions: torch.Tensor, windows: Sequence[int | None]
) -> torch.Tensor | dict[str, torch.Tensor]:
    """``mask`` as transformers wants it for layers that see as far as ``windows`` say: one mask
    where they are alike, else one for each type of layer. ``mask`` (rows, 1, new, slots) and
    ``positions`` (rows, new) are those of :meth:`RowCache.window`, where a slot is a position."""
    limits = [window for window in set(windows) if window is not None]
    if not limits:
        return mask
    slots = torch.arange(mask.shape[-1], device=mask.device)
    far = slots <= positions[:, None, :, None] - limits[0]
    near = mask.masked_fill(far, float("-inf"))
    return {"full_attention": mask, "sliding_attention": near} if None in windows else near


@dataclass
class Prefix:
    """Token ids and the states computed for them: (layers, heads, tokens, dim) each."""

    token_ids: list[int]
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


class PrefixStore:
    """The states of recent episodes, least recently used out first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[Hashable, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self._items.values())

    def match(self, key: Hashable, ids: Sequence[int]) -> int:
        """Length of the stored prefix of ``ids``; at least one id is left to be computed."""
        item = self._items.get(key)
        if item is None:
            return 0
        return min(in_common(item.token_ids, ids), len(ids) - 1)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    def load(self, key: Hashable, length: int, cache: RowCache, row: int) -> None:
        """Lay the first ``length`` tokens of what is stored, if anything is, into ``row``."""
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)
            cache.keys[:, row, :, :length] = item.keys[:, :, :length]
            cache.values[:, row, :, :length] = item.values[:, :, :length]
            cache.lengths[row] = length

    def save(self, key: Hashable, ids: Sequence[int], cache: RowCache, row: int) -> None:
        length = int(cache.lengths[row])
        self._items[key] = Prefix(
            list(ids[:length]),
            cache.keys[:, row, :, :length].clone(),
            cache.values[:, row, :, :length].clone(),
        )
        used = self.bytes
        while used > self.max_bytes and self._items:
            used -= self._items.popitem(last=False)[1].bytes

    def drop(self, key: Hashable) -> None:
        self._items.pop(key, None)

    def clear(self) -> None:
        self._items.clear()
