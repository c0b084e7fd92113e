"""Losses as sums over explicit (hidden state, token) pairs with one stated denominator.

The head computes logits only for nodes that carry a weight, a chunk at a time. From them come the
log-prob of each token and, where asked for, of the scorer's top-k tokens; every loss is a function
of these alone. ``objective.py`` says what the losses are called and where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from algorithms.engine.objective import Objective
from algorithms.engine.tree import Packed, TokenTree

Head = Callable[[torch.Tensor], torch.Tensor]
CHUNK = 1024  # rows of logits alive at once: 1024 x 49152 float32 are 200 MB
# Far outside of all that is ever learned from, but exp() of it is finite, and so are gradients.
LEAST_LOGPROB, MOST_LOG_RATIO = -87.0, 20.0


def denominator(samples: Sequence[TokenTree], objective: Objective | None = None) -> float:
    """What the sums over ``samples`` are divided by; see :class:`Objective`."""
    if objective is None or objective.denominator == "weights":
        return float(sum(float(s.weight[s.scored].sum(dtype="float64")) for s in samples))
    return float(sum(len(set(s.sequence[s.scored].tolist())) for s in samples))


class Predicted(NamedTuple):
    """Of m loss pairs: log-probs of the tokens (m,), which are the model's first choice (m,), the
    log-probs of the scorer's top-k tokens (m, k), and the model's own most likely tokens (m, j)."""

    logprobs: torch.Tensor
    right: torch.Tensor
    top: torch.Tensor
    best_ids: torch.Tensor
    best_logprobs: torch.Tensor


def _chunk(
    head: Head, hidden: torch.Tensor, target: torch.Tensor, top_ids: torch.Tensor, best: int
) -> tuple[torch.Tensor, ...]:
    logprobs = head(hidden).float().log_softmax(-1)
    found = logprobs.gather(1, target[:, None])[:, 0]
    best_logprobs, best_ids = logprobs.detach().topk(max(best, 1), -1)
    right = best_ids[:, 0] == target
    return found, right, logprobs.gather(1, top_ids), best_ids[:, :best], best_logprobs[:, :best]


def predict(head: Head, hidden: torch.Tensor, packed: Packed, best: int = 0) -> Predicted:
    """``hidden`` is (t, d), the last hidden states of the packed row. All chunks but a lone one are
    computed again in the backward, so that no more than CHUNK rows of logits are ever alive."""
    rows, top = hidden[packed.source], packed.streams["top_ids"]
    pieces = range(0, max(1, len(packed.target)), CHUNK)
    found = []
    for low in pieces:
        part = slice(low, low + CHUNK)
        args = (head, rows[part], packed.target[part], top[part], best)
        if len(pieces) == 1 or not torch.is_grad_enabled():
            found.append(_chunk(*args))
        else:
            found.append(checkpoint(_chunk, *args, use_reentrant=False))
    return Predicted(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@dataclass(frozen=True)
class Sums:
    """Weighted sums over one row: ``right`` by the weight of CE, ``clipped`` by the policy
    gradient's, ``divergence`` by its own, or by the policy gradient's where that descends one."""

    loss: torch.Tensor
    right: float
    clipped: float
    divergence: float


def total(objective: Objective, predicted: Predicted, packed: Packed) -> Sums:
    """All three streams; one that no token carries costs nothing."""
    streams, logprobs = packed.streams, predicted.logprobs
    if objective.temperature != 1 and bool(streams["ce_weight"].any()):
        raise ValueError(
            f"cross-entropy is learned at temperature 1, and these log-probs are of temperature "
            f"{objective.temperature:g}"
        )
    learned = torch.where(streams["ce_weight"] != 0, logprobs, 0.0)
    loss = -(streams["ce_weight"] * learned).sum()
    clipped = divergence = 0.0
    if bool(streams["pg_weight"].any()):
        each, cut, away = policy_gradient(objective, logprobs, packed)
        loss = loss + (streams["pg_weight"] * each).sum()
        clipped = float((streams["pg_weight"] * cut).sum())
        divergence = float((streams["pg_weight"] * away).sum())
    if bool(streams["kl_weight"].any()):
        each = per_token_divergence(objective, predicted, streams)
        loss = loss + objective.coefficient * (streams["kl_weight"] * each).sum()
        divergence += float((streams["kl_weight"] * each.detach()).sum())
    right = float((streams["ce_weight"] * predicted.right).sum())
    return Sums(loss, right, clipped, divergence)


def policy_gradient(
    objective: Objective, logprobs: torch.Tensor, packed: Packed
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's clipped surrogate (arXiv 1707.06347), negated, per token; where the clip binds; and,
    where the advantage is the log-ratio to a scorer, how far the student is from it: K3 weighted by
    the policies' ratio, whose mean estimates the reverse KL of the student as it is now.

    The stream ``old`` holds the trainer's log-probs before the first update where the objective
    wants truncation; else the behavior's serve.
    """
    streams = packed.streams
    taken = streams["pg_weight"] != 0
    behavior, advantage = streams["behavior"], streams["advantage"]
    away = torch.zeros_like(logprobs)
    old = streams.get("old", behavior)
    log_ratio = torch.where(taken, logprobs - old, 0.0).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
    if objective.ratio == "sequence":
        log_ratio = _mean_of_sequence(log_ratio, taken, packed.sequence)
    ratio = log_ratio.exp()
    if objective.advantage == "log_ratio":
        advantage = torch.where(taken, _to_scorer(streams, logprobs.detach()), 0.0)
        away = ratio.detach() * (advantage.expm1() - advantage)
    low = None if objective.clip_low is None else 1 - objective.clip_low
    high = None if objective.clip_high is None else 1 + objective.clip_high
    clamped = ratio if low is high is None else ratio.clamp(low, high)
    each = -torch.minimum(ratio * advantage, clamped * advantage)
    if objective.truncation is not None:
        each = each * (old - behavior).exp().clamp(max=objective.truncation)
    return each, (clamped * advantage < ratio * advantage) & taken, away


def _to_scorer(streams: dict[str, torch.Tensor], logprobs: torch.Tensor) -> torch.Tensor:
    """log(scored / student) of each token, within bounds that exp() bears."""
    return (streams["score"].clamp(min=LEAST_LOGPROB) - logprobs).clamp(max=MOST_LOG_RATIO)


def _mean_of_sequence(
    values: torch.Tensor, taken: torch.Tensor, sequence: torch.Tensor
) -> torch.Tensor:
    size = int(sequence.max()) + 1
    sums = values.new_zeros(size).index_add(0, sequence, values)
    counts = values.new_zeros(size).index_add(0, sequence, taken.to(values.dtype))
    return (sums / counts.clamp(min=1))[sequence]


def per_token_divergence(
    objective: Objective, predicted: Predicted, streams: dict[str, torch.Tensor]
) -> torch.Tensor:
    """How far the student is from the scorer at each token, 0 where no weight asks for it."""
    taken = streams["kl_weight"] != 0
    if objective.divergence == "jsd":
        scored = torch.where(taken[:, None], streams["top_logprobs"], -torch.inf)
        return torch.where(taken, jsd(predicted.top, scored, objective.jsd_beta), 0.0)
    r = torch.where(taken, _to_scorer(streams, predicted.logprobs), 0.0)
    if objective.divergence == "k1":
        return -r
    return r.square() / 2 if objective.divergence == "k2" else r.expm1() - r


def jsd(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalized Jensen-Shannon divergence of (m, k) log-probs and one bin for all other tokens:

        beta KL(teacher || mix) + (1 - beta) KL(student || mix)
        mix = beta teacher + (1 - beta) student

    with beta 0 as KL(teacher || student) and 1 as KL(student || teacher), as GKD has it. Where the
    k tokens are the whole vocabulary it is exact, else a lower bound. A teacher entry of -inf is a
    filler and counts as nothing.
    """
    p, q = _with_rest(teacher, teacher), _with_rest(student, teacher)
    if beta in (0, 1):
        return _kl(p, q) if beta == 0 else _kl(q, p)
    mix = torch.logaddexp(p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())
    return beta * _kl(p, mix) + (1 - beta) * _kl(q, mix)


SMALLEST = 1e-12  # of the bin for all other tokens: rounding leaves it at 0 or just below


def _with_rest(logprobs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Add the bin of the tokens that are not listed; fillers get the smallest mass."""
    filler = teacher == -torch.inf
    logprobs = torch.where(filler, -torch.inf, logprobs.clamp(min=LEAST_LOGPROB))
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp(min=SMALLEST).log()
    return torch.cat([torch.where(filler, torch.log(torch.tensor(SMALLEST)), logprobs), rest], -1)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(-1)
