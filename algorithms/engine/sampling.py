"""From logits to tokens and their log-probs: sampling by inverting the cumulative distribution.

A decoding step of a small model takes little longer than sorting its vocabulary for every row, so
nothing here does that: top-p looks at the most likely tokens first and goes on only for the rows
where they are not enough, and without top-p a token is found in two steps, its block and then its
place in the block. What a row gets depends on no other row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

LIKELY, MORE = 256, 16  # tokens that top-p looks at first, and how many times as many it tries next
BLOCK = 256  # tokens of which the probabilities are added up before one of them is looked for


def sample(
    logits: torch.Tensor, uniform: Sequence[float], temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    Top-p keeps the most likely tokens, up to and including the one that reaches ``top_p``.

    Args:
        logits: Shape [rows, vocabulary].
        uniform: A number in [0, 1) for each row.
        temperature: 0 takes the most likely token.
        top_p: Probability mass to keep.

    Returns:
        Token ids, [rows], and their log-probs in the distribution that they were sampled from,
        [rows]. Log-probs at temperature 0 are of the whole distribution at temperature 1.
    """
    logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, _of(logprobs, tokens)
    aims = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    if top_p == 1:
        tokens = _invert(logprobs.exp(), aims)
        return tokens, _of(logprobs, tokens)
    tokens, mass = _from_nucleus(logprobs, aims, top_p)
    return tokens, _of(logprobs, tokens) - mass.log().float()


def _of(logprobs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logprobs.gather(1, tokens[:, None])[:, 0]


def _invert(probs: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    """The tokens, [rows], at which the sums of ``probs`` pass the share ``aims``, [rows, 1]."""
    blocks = F.pad(probs, (0, -probs.shape[1] % BLOCK)).view(len(probs), -1, BLOCK)
    mass = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    aims = aims * mass[:, -1:]
    block = torch.searchsorted(mass, aims, right=True).clamp_(max=mass.shape[-1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(-1)
    inside += mass.gather(1, block) - inside[:, -1:]  # from the beginning of the vocabulary
    place = torch.searchsorted(inside, aims, right=True).clamp_(max=BLOCK - 1)
    return (block * BLOCK + place)[:, 0].clamp_(max=probs.shape[1] - 1)


def _from_nucleus(
    logprobs: torch.Tensor, aims: torch.Tensor, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, [rows], and the mass that top-p keeps of the rows' distributions, [rows]."""
    tokens, kept = logprobs.new_empty(len(aims), dtype=torch.long), torch.empty_like(aims[:, 0])
    rows, count = torch.arange(len(aims), device=aims.device), LIKELY
    while len(rows):
        count = min(count, logprobs.shape[1])
        best, order = logprobs[rows].topk(count)
        mass = best.double().exp().cumsum(-1)
        reached = torch.searchsorted(mass, torch.full_like(mass[:, :1], top_p))
        enough = reached[:, 0] < count
        if count == logprobs.shape[1]:  # by rounding, the sum of all may stay below top_p
            enough.fill_(True)
        last = reached.clamp_(max=count - 1)
        whole = mass.gather(1, last)
        place = torch.searchsorted(mass, aims[rows] * whole, right=True).minimum(last)
        tokens[rows[enough]] = order.gather(1, place)[enough, 0]
        kept[rows[enough]] = whole[enough, 0]
        rows, count = rows[~enough], count * MORE
    return tokens, kept
