"""From logits to tokens: sampling by inversion, and the log-probs of what was sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pick(
    logits: torch.Tensor, uniform: Sequence[float], temperature: float, top_p: float
) -> torch.Tensor:
    """Sample one token per row by inverting the cumulative distribution.

    Top-p keeps the most likely tokens, up to and including the one that reaches ``top_p``.

    Args:
        logits: Shape [rows, vocabulary].
        uniform: A number in [0, 1) for each row.
        temperature: 0 takes the most likely token.
        top_p: Probability mass to keep.

    Returns:
        Token ids, [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs, order = (logits / temperature).softmax(-1), None
    if top_p < 1:
        probs, order = _nucleus(probs, top_p)
    mass = probs.double().cumsum(-1)
    # Scaled by the total mass, which is below 1 after top-p.
    aim = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
    index = torch.searchsorted(mass, aim, right=True).clamp_(max=mass.shape[-1] - 1)
    return (index if order is None else order.gather(1, index))[:, 0]


def sampled_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Log-probs of ``tokens``, [rows], in the distribution that :func:`pick` samples them from.

    At temperature 0 they are of the distribution at temperature 1.
    """
    logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
    sampled = logprobs.gather(1, tokens[:, None])[:, 0]
    if temperature and top_p < 1:  # divide by the mass that top-p keeps
        sampled = sampled - _nucleus(logprobs.exp(), top_p)[0].double().sum(-1).log().float()
    return sampled


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of a distribution that top-p keeps.

    Sorting a vocabulary is slow, so the 256 most likely tokens are tried first.

    Returns:
        Probabilities, largest first and 0 outside of the nucleus, and the tokens they belong to.
    """
    kept, order = probs.topk(min(256, probs.shape[-1]))
    if bool((kept.sum(-1) < top_p).any()) and kept.shape[-1] < probs.shape[-1]:
        kept, order = probs.sort(descending=True)
    before = kept.cumsum(-1) - kept  # a token is kept if those before it do not reach top_p
    return kept.masked_fill(before >= top_p, 0.0), order
