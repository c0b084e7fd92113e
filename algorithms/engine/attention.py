"""Attention over packed trees, registered with transformers under ``packed_tree``.

Neither path ever holds a mask or probabilities of t x t. torch's own masked attention computes the
whole square on the CPU, hidden half included; here each block of queries gathers the keys that it
can see, so that a branch which has ended costs nothing more, and probabilities are computed again
in the backward. On a GPU it is torch's FlexAttention, whose blocks are worked out from the tree.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from algorithms.engine.tree import Packed
from swe_gym_env.errors import SetupError

BLOCK = 256  # queries at once on the CPU
FLEX_BLOCK = 128  # FlexAttention's own, for queries and keys; its rows are padded to a multiple


class Block(NamedTuple):
    """Rows ``low:high`` and what they look at. The last h ``columns`` are seen by some rows only:
    ``hidden`` (high - low, h) says which rows do not."""

    low: int
    high: int
    columns: torch.Tensor
    hidden: torch.Tensor


class TreeMask:
    """What the nodes of a packed row see; made once and used by all layers.

    Row i sees column j where j <= i < end[j]. Under a sliding window also depth[i] - depth[j] must
    be less than it: the window goes up the branch, not to the left.
    """

    def __init__(self, packed: Packed) -> None:
        self.spans, self.end, self.depth = packed.spans, packed.end, packed.position_ids[0]
        self.asked: list[int | None] = []  # the window of each attention layer that has run
        self._blocks: dict[int | None, list[Block]] = {}
        self._flex: dict[int | None, BlockMask] = {}

    def blocks(self, window: int | None) -> list[Block]:
        """For the CPU. No block reaches over two trees, but for what they have in common."""
        if window not in self._blocks:
            self._blocks[window] = [
                self._block(low, min(low + BLOCK, stop), window or len(self.end))
                for start, stop in self.spans
                for low in range(start, stop, BLOCK)
            ]
        return self._blocks[window]

    def _block(self, low: int, high: int, window: int) -> Block:
        end, depth, device = self.end, self.depth, self.end.device
        horizon = depth[low:high] - window  # a row sees only what is deeper
        seen = (end[:high] > low) & (depth[:high] > horizon.min())
        nodes = torch.arange(high, device=device)[seen]
        by_all = (nodes <= low) & (end[nodes] >= high) & (depth[nodes] > horizon.max())
        some = nodes[~by_all]
        rows = torch.arange(low, high, device=device)[:, None]
        hidden = (some > rows) | (rows >= end[some]) | (depth[some] <= horizon[:, None])
        return Block(low, high, torch.cat([nodes[by_all], some]), hidden)

    def flex(self, window: int | None, size: int = FLEX_BLOCK) -> BlockMask:
        """For FlexAttention; the length of the row is a multiple of ``size``."""
        if window not in self._flex:
            self._flex[window] = self._block_mask(window or len(self.end), size)
        return self._flex[window]

    def _block_mask(self, window: int, size: int) -> BlockMask:
        """torch's ``create_block_mask`` would look at all t x t pairs; an interval's ends and the
        least and greatest depth of a block tell as much. A block that only might hold a visible
        pair counts as partly visible: there ``sees`` decides."""
        end, depth = self.end.int(), self.depth.int()
        horizon = depth - window

        def sees(_b: Any, _h: Any, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            return (column <= row) & (row < end[column]) & (depth[column] > horizon[row])

        ends, depths, horizons = (x.view(-1, size) for x in (end, depth, horizon))
        starts = torch.arange(0, len(end), size, device=end.device)[:, None]
        some = (ends.amax(1) > starts) & (depths.amax(1) > horizons.amin(1)[:, None])
        every = (ends.amin(1) >= starts + size) & (depths.amin(1) > horizons.amax(1)[:, None])
        some, every = some & (starts >= starts.T), every & (starts > starts.T)
        return BlockMask.from_kv_blocks(
            *_listed(some & ~every), *_listed(every), BLOCK_SIZE=size, mask_mod=sees
        )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (n, n) bool: how many columns are set in each row, and these columns first."""
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int().contiguous()[None, None]


class _BlockAttention(torch.autograd.Function):
    """q (kv heads, group, t, d), k (kv heads, t, d), v (kv heads, t, e); grouped heads share a
    product."""

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
        for block in blocks:
            probs = _probabilities(q, k, block, scale)[0]
            found = torch.bmm(probs, v[:, block.columns])
            out[:, :, block.low : block.high] = found.view(heads, group, -1, v.shape[-1])
        ctx.save_for_backward(q, k, v)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        heads, group, _, dim = q.shape
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for block in ctx.blocks:
            here = slice(block.low, block.high)
            probs, query, keys = _probabilities(q, k, block, ctx.scale)
            dout = grads[0][:, :, here].reshape(heads, -1, v.shape[-1])
            dv.index_add_(1, block.columns, torch.bmm(probs.transpose(1, 2), dout).float())
            dprobs = torch.bmm(dout, v[:, block.columns].transpose(1, 2))
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            dk.index_add_(1, block.columns, torch.bmm(dscores.transpose(1, 2), query).float())
            dq[:, :, here] = (torch.bmm(dscores, keys) * ctx.scale).view(heads, group, -1, dim)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, block: Block, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(kv heads, group x rows, columns), with the scaled queries and the keys they came from."""
    heads, group, _, dim = q.shape
    query = (q[:, :, block.low : block.high] * scale).reshape(heads, -1, dim)
    keys = k[:, block.columns]
    scores = torch.bmm(query, keys.transpose(1, 2))
    unsure = scores.view(heads * group, block.high - block.low, -1)
    unsure = unsure[..., len(block.columns) - block.hidden.shape[1] :]
    unsure.masked_fill_(block.hidden, float("-inf"))
    return F.softmax(scores, -1), query, keys


def _refuse_more(others: dict[str, Any], dropout: float) -> None:
    """SetupError where attention is more than a softmax over what a row sees."""
    more = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if dropout:
        more.append("attention_dropout")
    if more:
        raise SetupError(
            f"This model's attention uses {', '.join(more)}, which token trees do not support: "
            "training would go wrong without a word. Take a model without it."
        )


@cache
def _compiled() -> Any:
    """Uncompiled, FlexAttention holds t x t; with ``fullgraph`` it can never fall back to that."""
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
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The transformers attention interface for one packed row: (1, heads, t, d) in and out.

    SetupError where the model's attention is more than a softmax over what a row sees.
    """
    _refuse_more(others, dropout)
    tree_mask.asked.append(sliding_window)
    _one, heads, length, dim = query.shape
    kv = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    if query.device.type == "cuda":
        mask = tree_mask.flex(sliding_window)
        out = _compiled()(query, key, value, block_mask=mask, scale=scale, enable_gqa=heads != kv)
    else:
        grouped = query[0].reshape(kv, heads // kv, length, dim)
        blocks = tree_mask.blocks(sliding_window)
        out = _BlockAttention.apply(grouped, key[0], value[0], blocks, scale)
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
    asked: list[int | None],
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Computes nothing: notes the window of each layer in ``asked`` and refuses as above."""
    _refuse_more(others, dropout)
    asked.append(sliding_window)
    one, heads, length, _ = query.shape
    return query.new_zeros(one, length, heads, value.shape[-1]), None


AttentionInterface.register("packed_tree", packed_tree_attention)
AttentionInterface.register("probe", probe_attention)
