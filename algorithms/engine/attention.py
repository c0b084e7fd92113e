"""Attention over packed trees, registered with transformers under the name ``packed_tree``.

A row of t nodes has a t x t mask, but neither path here ever stores it, nor the probabilities:

- **CPU**: torch's masked attention computes the whole square, including the hidden half. Here
  queries are taken in blocks, and each block gathers only the keys that some of its rows see. A
  branch that has ended therefore costs later blocks nothing. Probabilities are computed again in
  the backward pass instead of being kept.
- **GPU**: torch's FlexAttention with a block mask that is derived from the tree.

Both compute exactly what each path from a root would give as a sequence alone: the visible keys of
a node are its ancestors and itself, softmax runs over these only, and the position of a key (its
depth) was already applied by the rotary embedding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from algorithms.engine.tree import PackedTrees
from swe_gym_env.errors import SetupError

BLOCK = 256  # queries per block on the CPU
FLEX_BLOCK = 128  # block size of FlexAttention for queries and keys; rows are padded to a multiple


class Block(NamedTuple):
    """The queries ``low:high`` and the keys that at least one of them sees.

    Most keys are seen by all rows of a block and need no mask. They come first; only the last h
    columns are masked.

    Attributes:
        low: First row.
        high: One past the last row.
        columns: Indices of the keys in the packed row, shape [columns].
        hidden: For the last h columns, which rows do not see them. Bool, shape [high - low, h].
    """

    low: int
    high: int
    columns: torch.Tensor
    hidden: torch.Tensor


class TreeMask:
    """What the nodes of a packed row see. It is made once per row and used by all layers.

    Row i sees column j where ``j <= i < end[j]``. In a layer with a sliding window,
    ``depth[i] - depth[j] < window`` must hold too: the window extends up the branch, not to the
    left in the row.

    Attributes:
        windows_used: The sliding window (or None) of each attention layer that has run, in order.
            ``forward.py`` compares it with the model's configuration.
    """

    def __init__(self, packed: PackedTrees) -> None:
        self.spans, self.end, self.depth = packed.spans, packed.end, packed.position_ids[0]
        self.windows_used: list[int | None] = []
        self._blocks: dict[int | None, list[Block]] = {}
        self._flex: dict[int | None, BlockMask] = {}

    def blocks(self, window: int | None) -> list[Block]:
        """The blocks of the CPU path, which together cover the row.

        A block never crosses the boundary of two trees, so its keys are from one tree and from the
        beginning that this tree shares with earlier ones.
        """
        if window not in self._blocks:
            self._blocks[window] = [
                self._block(low, min(low + BLOCK, stop), window or len(self.end))
                for start, stop in self.spans
                for low in range(start, stop, BLOCK)
            ]
        return self._blocks[window]

    def _block(self, low: int, high: int, window: int) -> Block:
        end, depth, device = self.end, self.depth, self.end.device
        horizon = depth[low:high] - window  # a row sees only nodes that are deeper than this
        # Seen by at least one row: the subtree reaches into the block (end > low), and the window
        # of the row that looks furthest up includes it. Columns after row i are masked below.
        seen = (end[:high] > low) & (depth[:high] > horizon.min())
        nodes = torch.arange(high, device=device)[seen]
        # Seen by every row: an ancestor of the whole block, and within the shortest window.
        by_all = (nodes <= low) & (end[nodes] >= high) & (depth[nodes] > horizon.max())
        some = nodes[~by_all]
        rows = torch.arange(low, high, device=device)[:, None]
        hidden = (some > rows) | (rows >= end[some]) | (depth[some] <= horizon[:, None])
        return Block(low, high, torch.cat([nodes[by_all], some]), hidden)

    def flex(self, window: int | None, size: int = FLEX_BLOCK) -> BlockMask:
        """The mask for FlexAttention. The length of the row must be a multiple of ``size``."""
        if window not in self._flex:
            self._flex[window] = self._block_mask(window or len(self.end), size)
        return self._flex[window]

    def _block_mask(self, window: int, size: int) -> BlockMask:
        """Classify pairs of blocks (query block x key block) as full, partial or empty.

        torch's ``create_block_mask`` would evaluate all t x t pairs. The extremes of ``end`` and of
        ``depth`` in each block are enough for a safe answer: "full" only if certain, "empty" only
        if certain, and "partial" otherwise. In a partial block ``sees`` decides for each pair, so
        a block that is called partial without need costs time and changes no result.
        """
        end, depth = self.end.int(), self.depth.int()
        horizon = depth - window

        def sees(_b: Any, _h: Any, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            return (column <= row) & (row < end[column]) & (depth[column] > horizon[row])

        # Below, dimension 0 is the query block (its first row: starts), dimension 1 the key block.
        ends, depths, horizons = (x.view(-1, size) for x in (end, depth, horizon))
        starts = torch.arange(0, len(end), size, device=end.device)[:, None]
        some = (ends.amax(1) > starts) & (depths.amax(1) > horizons.amin(1)[:, None])
        every = (ends.amin(1) >= starts + size) & (depths.amin(1) > horizons.amax(1)[:, None])
        # The diagonal block is never full: a row does not see the columns after it.
        some, every = some & (starts >= starts.T), every & (starts > starts.T)
        return BlockMask.from_kv_blocks(
            *_column_lists(some & ~every), *_column_lists(every), BLOCK_SIZE=size, mask_mod=sees
        )


def _column_lists(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn [n, n] bool into FlexAttention's sparse form.

    Returns:
        The number of set columns in each row, shape [1, 1, n], and the columns with the set ones
        first, shape [1, 1, n, n]; both int32, for one batch entry and one head.
    """
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int().contiguous()[None, None]


class _BlockAttention(torch.autograd.Function):
    """Attention of one packed row, block by block.

    Shapes: q [kv heads, group, t, d], k [kv heads, t, d], v [kv heads, t, e]. With grouped-query
    attention, ``group`` query heads share a key head; they are rows of one matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        blocks: list[Block],
        scale: float,
    ) -> torch.Tensor:
        heads, group, length, _ = q.shape
        out = q.new_empty(heads, group, length, v.shape[-1])
        # A row sees at least itself, so no softmax is over nothing, and no row is left unwritten.
        for block in blocks:
            probs = _probabilities(q, k, block, scale)[0]
            mixed = torch.bmm(probs, v[:, block.columns])
            out[:, :, block.low : block.high] = mixed.view(heads, group, -1, v.shape[-1])
        ctx.save_for_backward(q, k, v)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        heads, group, _, dim = q.shape
        # Rows of q belong to one block each, so dq is written once. A key gets gradients from many
        # blocks; these are summed in float32, or bfloat16 would round every partial sum.
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for block in ctx.blocks:
            rows = slice(block.low, block.high)
            probs, query, keys = _probabilities(q, k, block, ctx.scale)
            dout = grads[0][:, :, rows].reshape(heads, -1, v.shape[-1])
            dv.index_add_(1, block.columns, torch.bmm(probs.transpose(1, 2), dout).float())
            dprobs = torch.bmm(dout, v[:, block.columns].transpose(1, 2))
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            dk.index_add_(1, block.columns, torch.bmm(dscores.transpose(1, 2), query).float())
            dq[:, :, rows] = (torch.bmm(dscores, keys) * ctx.scale).view(heads, group, -1, dim)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, block: Block, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention probabilities of one block.

    Returns:
        Probabilities [kv heads, group * rows, columns], the scaled queries [kv heads,
        group * rows, d] and the keys [kv heads, columns, d] that they were computed from.
    """
    heads, group, _, dim = q.shape
    query = (q[:, :, block.low : block.high] * scale).reshape(heads, -1, dim)
    keys = k[:, block.columns]
    scores = torch.bmm(query, keys.transpose(1, 2))
    # A view with one entry per query head, so that ``hidden`` [rows, h] broadcasts over the heads.
    masked = scores.view(heads * group, block.high - block.low, -1)
    masked = masked[..., len(block.columns) - block.hidden.shape[1] :]
    masked.masked_fill_(block.hidden, float("-inf"))
    return F.softmax(scores, -1), query, keys


def _refuse_extras(options: dict[str, Any], dropout: float) -> None:
    """SetupError if the model's attention is more than a softmax over the visible keys."""
    extras = [n for n in ("softcap", "s_aux", "position_bias") if options.get(n) is not None]
    if dropout:
        extras.append("attention_dropout")
    if extras:
        raise SetupError(
            f"This model's attention uses {', '.join(extras)}, which token trees do not support: "
            "training would be wrong without an error. Use a model without it."
        )


@cache
def _compiled_flex_attention() -> Any:
    """FlexAttention, compiled.

    Without compilation it stores t x t scores; ``fullgraph`` makes a fallback to that an error.
    """
    return torch.compile(flex_attention, fullgraph=True)


def packed_tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    *,
    tree_mask: TreeMask,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls in each layer, for one packed row.

    Args:
        module: The attention layer; not used.
        query: Shape [1, heads, t, d].
        key: Shape [1, kv heads, t, d].
        value: Shape [1, kv heads, t, e].
        attention_mask: Not used; ``tree_mask`` takes its place.
        scaling: Factor of the scores; None for 1 / sqrt(d).
        dropout: Must be 0.
        sliding_window: Number of nodes on the branch that a node sees, itself included; None: all.
        tree_mask: The mask of the row, passed through the model's forward call.
        **options: What else transformers passes for this model.

    Returns:
        The output, shape [1, t, heads, e], and None in place of the attention weights.

    Raises:
        SetupError: The model's attention is more than a softmax over the visible keys.
    """
    _refuse_extras(options, dropout)
    tree_mask.windows_used.append(sliding_window)
    _batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    if query.device.type == "cuda":
        mask, grouped = tree_mask.flex(sliding_window), heads != kv_heads
        attend = _compiled_flex_attention()
        out = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    else:
        q = query[0].reshape(kv_heads, heads // kv_heads, length, dim)
        blocks = tree_mask.blocks(sliding_window)
        out = _BlockAttention.apply(q, key[0], value[0], blocks, scale)
        out = out.reshape(1, heads, length, -1)
    return out.transpose(1, 2).contiguous(), None


def probe_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    *,
    windows_used: list[int | None],
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute nothing; append the layer's window to ``windows_used`` and refuse as above."""
    _refuse_extras(options, dropout)
    windows_used.append(sliding_window)
    batch, heads, length, _ = query.shape
    return query.new_zeros(batch, length, heads, value.shape[-1]), None


AttentionInterface.register("packed_tree", packed_tree_attention)
AttentionInterface.register("probe", probe_attention)
