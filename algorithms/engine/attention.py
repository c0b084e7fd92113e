"""Attention over packed trees on the CPU, registered with transformers under ``packed_tree``.

torch's CPU kernel for a masked SDPA computes the whole packed square, hidden half included, and its
bfloat16 backward alone took a third of a training step. Here every tree attends within its own
span, in blocks of queries that look only at keys before their end (parents stand before children,
so nothing visible lies beyond), and grouped heads share one product. Probabilities are kept for
the backward: meant for trees of up to a few thousand tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

BLOCK = 256
Spans = tuple[tuple[int, int], ...]


def _blocks(spans: Spans) -> Iterator[tuple[int, int, int]]:
    """(start of the tree, start of the queries, end of the queries and keys)."""
    for start, end in spans:
        for low in range(start, end, BLOCK):
            yield start, low, min(low + BLOCK, end)


class _TreeAttention(torch.autograd.Function):
    """q (kv heads, group, t, d), k and v (kv heads, t, d), end (t,) as in ``tree.py``."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        end_of: torch.Tensor,
        spans: Spans,
        scale: float,
    ) -> torch.Tensor:
        heads, group, _, dim = q.shape
        out = torch.empty_like(q)
        kept = []
        for start, low, end in _blocks(spans):
            size = end - low
            query = (q[:, :, low:end] * scale).reshape(heads, group * size, dim)
            scores = torch.bmm(query, k[:, start:end].transpose(1, 2))
            scores = scores.view(heads * group, size, end - start)
            rows = torch.arange(low, end, device=q.device)[:, None]
            columns = torch.arange(start, end, device=q.device)[None]
            hidden = (columns > rows) | (rows >= end_of[None, start:end])
            scores.masked_fill_(hidden, float("-inf"))
            probs = F.softmax(scores, -1).view(heads, group * size, end - start)
            out[:, :, low:end] = torch.bmm(probs, v[:, start:end]).view(heads, group, size, dim)
            kept.append(probs)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.spans, ctx.scale = spans, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        q, k, v, *kept = ctx.saved_tensors
        heads, group, _, dim = q.shape
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, low, end), probs in zip(_blocks(ctx.spans), kept, strict=True):
            rows = group * (end - low)
            dout = grad[:, :, low:end].reshape(heads, rows, dim)
            query = (q[:, :, low:end] * ctx.scale).reshape(heads, rows, dim)
            dv[:, start:end] += torch.bmm(probs.transpose(1, 2), dout)
            dprobs = torch.bmm(dout, v[:, start:end].transpose(1, 2))
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            dk[:, start:end] += torch.bmm(dscores.transpose(1, 2), query)
            dquery = torch.bmm(dscores, k[:, start:end]) * ctx.scale
            dq[:, :, low:end] = dquery.view(heads, group, end - low, dim)
        return dq, dk, dv, None, None, None


def packed_tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    tree_spans: Spans,
    tree_end: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The transformers attention interface for one packed row: (1, heads, t, d) in and out."""
    _one, heads, length, dim = query.shape
    kv = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    out = _TreeAttention.apply(
        query[0].reshape(kv, heads // kv, length, dim),
        key[0],
        value[0],
        tree_end,
        tree_spans,
        scale,
    )
    return out.reshape(1, heads, length, dim).transpose(1, 2).contiguous(), None


AttentionInterface.register("packed_tree", packed_tree_attention)
