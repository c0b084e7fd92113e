"""Keys and values of many episodes, so that a turn computes only what is new in it.

``RowCache`` is what the model sees of a batch: buffers with one row for each episode. Rows are
filled from the left and each has its own length, so there is no padding on the left and no copy for
a new token. A finished row is removed by moving the last row into its place.

``PrefixStore`` keeps the states of each episode between turns, and evicts the least recently used.

Invariants:

- The slot of a token is its position id: a row that holds n tokens uses slots 0 to n - 1. Slots
  from ``lengths[row]`` on are undefined (stale or padding) and no real token may see them.
- Stored states are exact only for the ids that they were computed from. ``match`` therefore
  compares ids and returns how many may be reused; everything after that is computed again.
- States depend on the weights, so a store belongs to one policy, whose weights never change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.engine.row_attention import RowMask
from algorithms.engine.tree import common_prefix_length


class RowCache:
    """The subset of transformers' ``Cache`` interface that decoder attention uses.

    The order of calls is: :meth:`window`, a forward pass (which calls :meth:`update` in every
    layer), :meth:`advance`.

    Attributes:
        keys: Shape [layers, rows, kv heads, capacity + 1, d].
        values: The same shape.
        lengths: Number of real tokens in each row, shape [rows].
    """

    is_compileable = False  # transformers asks for it before it would compile the decoding step

    def __init__(
        self, config: Any, rows: int, capacity: int, dtype: torch.dtype, device: Any
    ) -> None:
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._group = config.num_attention_heads // heads
        # One slot beyond the capacity takes the padding of short rows that would not fit.
        shape = (config.num_hidden_layers, rows, heads, capacity + 1, dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    @property
    def rows(self) -> int:
        """Number of rows that there is room for."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Number of tokens that each row has room for."""
        return self.keys.shape[3] - 1

    def grow(self, rows: int, capacity: int) -> None:
        """Make room for more rows and more tokens; what is there is copied."""
        self.keys = _padded(self.keys, rows, capacity)
        self.values = _padded(self.values, rows, capacity)
        lengths = torch.zeros(rows, dtype=torch.long, device=self.lengths.device)
        lengths[: len(self.lengths)] = self.lengths
        self.lengths = lengths

    def window(self, low: int, high: int, width: int) -> tuple[torch.Tensor, RowMask]:
        """Select the rows ``low:high`` for the next pass, with ``width`` new slots in each.

        A row with fewer new tokens is padded on the right. Padding lies after the row's real
        tokens, so the mask hides it from them, and the next real tokens overwrite it.

        Returns:
            Position ids, [rows, width], and what each new token sees.
        """
        lengths = self.lengths[low:high]
        positions = lengths[:, None] + torch.arange(width, device=lengths.device)
        self._rows = slice(low, high)
        # Padding of a row that is almost full would lie beyond the buffer; the spill slot takes it.
        new = positions.clamp(max=self.capacity)
        # Where the new states go in a layer's buffer, as rows of d numbers: [rows, heads, width].
        heads, every = self.keys.shape[2], torch.arange(low, high, device=lengths.device)
        lines = every[:, None] * heads + torch.arange(heads, device=lengths.device)
        self._lines = (lines[:, :, None] * (self.capacity + 1) + new[:, None]).flatten()
        return positions, self._mask(new)

    def _mask(self, new: torch.Tensor) -> RowMask:
        """What each token of a pass that writes the slots ``new`` sees."""
        return RowMask(new, self._group, self.keys.dtype)

    def advance(self, counts: torch.Tensor) -> None:
        """Lengthen the selected rows by ``counts`` real tokens each, shape [rows]."""
        self.lengths[self._rows] += counts

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new states, [rows, kv heads, width, d], into their slots.

        Returns:
            All slots of the selected rows, keys and values, [rows, kv heads, capacity + 1, d].
        """
        dim = keys.shape[-1]
        self.keys[layer].view(-1, dim).index_copy_(0, self._lines, keys.reshape(-1, dim))
        self.values[layer].view(-1, dim).index_copy_(0, self._lines, values.reshape(-1, dim))
        return self.keys[layer, self._rows], self.values[layer, self._rows]

    def get_seq_length(self, *_: Any) -> int:
        """Length of the longest selected row; part of transformers' interface."""
        return int(self.lengths[self._rows].max())

    def move(self, source: int, target: int) -> None:
        """Copy row ``source`` over row ``target``."""
        # Slots from ``length`` on keep what the target had; no mask shows them.
        length = int(self.lengths[source])
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length


def _padded(old: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
    new = old.new_zeros((old.shape[0], rows, old.shape[2], capacity + 1, old.shape[4]))
    new[:, : old.shape[1], :, : old.shape[3]] = old
    return new


@dataclass
class Prefix:
    """Token ids and the states that were computed for them.

    Attributes:
        token_ids: The ids, from the first token of the episode on.
        keys: Shape [layers, kv heads, tokens, d].
        values: The same shape.
    """

    token_ids: list[int]
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


class PrefixStore:
    """States of recent episodes, by a key that the caller chooses.

    The least recently used entry is evicted first, until at most ``max_bytes`` are in use. An entry
    that alone is larger is not kept. An evicted episode is only slower: its history is computed
    again.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[Hashable, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self._items.values())

    def match(self, key: Hashable, ids: list[int]) -> int:
        """How many of the first ``ids`` have stored states; 0 if nothing is stored.

        At least one id is left over, because the model needs an input to compute logits from.
        """
        item = self._items.get(key)
        if item is None:
            return 0
        known = len(item.token_ids)
        if ids[:known] != item.token_ids:  # as a rule they are equal, which is found out fast
            known = common_prefix_length(item.token_ids, ids)
        return min(known, len(ids) - 1)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    def load(self, key: Hashable, length: int, cache: RowCache, row: int) -> None:
        """Copy the first ``length`` stored tokens into ``row``; do nothing if none are stored."""
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)  # most recently used
            cache.keys[:, row, :, :length] = item.keys[:, :, :length]
            cache.values[:, row, :, :length] = item.values[:, :, :length]
            cache.lengths[row] = length

    def save(self, key: Hashable, ids: Sequence[int], cache: RowCache, row: int) -> None:
        """Store the states of ``row``, copied, because the row is about to be reused.

        ``ids`` may be longer than the row: the last sampled token has no states yet.
        """
        # A new key goes to the end of the order, as the most recently used.
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
        """Remove an entry, if there is one."""
        self._items.pop(key, None)
