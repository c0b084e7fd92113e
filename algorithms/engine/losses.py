"""Losses as sums over explicit (hidden state, token) pairs with one stated denominator.

The denominator of the weighted cross-entropy is the sum of the weights over the *whole optimiser
batch*. It is computed before the first micro-batch, so packing, order and accumulation cannot
change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from algorithms.engine.tree import Packed, TrainSample

Head = Callable[[torch.Tensor], torch.Tensor]
CHUNK = 1024  # rows of logits alive at once: 1024 x 49152 float32 are 200 MB


def denominator(samples: Sequence[TrainSample]) -> float:
    """Sum of the weights of all tokens that can be predicted (a root cannot)."""
    return float(sum(float(s.ce_weight[s.parent >= 0].sum(dtype="float64")) for s in samples))


def _chunk(
    head: Head, hidden: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float()
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum()
    return loss, ((logits.detach().argmax(-1) == target) * weight).sum()


def cross_entropy(head: Head, hidden: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, float]:
    """Weighted sums over one micro-batch: the loss, and the weight of the tokens already right.

    ``hidden`` is (t, d), the last hidden states of the packed row. The head sees only the nodes
    that predict something, CHUNK at a time; all but a lone chunk are recomputed in the backward.
    """
    total, right = hidden.new_zeros((), dtype=torch.float32), 0.0
    pieces = range(0, len(packed.target), CHUNK)
    for low in pieces:
        part = slice(low, low + CHUNK)
        device = hidden.device
        rows = hidden[packed.source[part].to(device)]
        args = (head, rows, packed.target[part].to(device), packed.weight[part].to(device))
        if len(pieces) == 1:
            loss, hits = _chunk(*args)
        else:
            loss, hits = checkpoint(_chunk, *args, use_reentrant=False)
        total = total + loss
        right += float(hits)
    return total, right
