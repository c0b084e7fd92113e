"""Losses as weighted sums over explicit pairs (hidden state, token), with one global denominator.

For each of the m loss pairs of a packed row, ``predict`` computes the log-prob of the token and, if
needed, of the scorer's top-k tokens. All losses are functions of these. Log-probs are in nats, and
losses are nats per token, weighted. With the streams of ``tree.py`` and sums over all loss pairs of
an optimizer batch, the objective is

    ( sum ce_weight * CE  +  sum pg_weight * PG  +  coefficient * sum kl_weight * D ) / denominator

    CE = -log p(token)                                        cross-entropy, ``weighted_sums``
    PG = -min(ratio * A, clip(ratio) * A)                     ``policy_gradient``
    D  = divergence from the scorer at this token             ``per_token_divergence``

The denominator belongs to the whole optimizer batch, over all micro-batches and all processes, and
is known before the first of them. A mean over each micro-batch would weight a token by the company
that it happens to be in. ``objective.py`` names the options and their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from algorithms.engine.tree import PackedTrees, TokenTree
from algorithms.objective import Objective

Head = Callable[[torch.Tensor], torch.Tensor]
CHUNK = 1024  # rows of logits in memory at once: 1024 x 49152 in float32 are 200 MB
# Bounds far outside of what training meets. They keep exp() finite (e^-87 is about the smallest
# normal float32), so that one -inf log-prob cannot turn a gradient into NaN.
MIN_LOGPROB, MAX_LOG_RATIO = -87.0, 20.0


def denominator(trees: Sequence[TokenTree], objective: Objective | None = None) -> float:
    """The number that the sums over ``trees``, a whole optimizer batch, are divided by.

    Args:
        trees: All trees of the optimizer batch, not only those of this process.
        objective: Its ``denominator`` decides: "weights" (the default) is the sum of the largest
            weight of each loss node; "sequences" is the number of episodes with a loss node.
    """
    if objective is None or objective.denominator == "weights":
        return float(sum(float(t.weight[t.loss_nodes].sum(dtype="float64")) for t in trees))
    return float(sum(len(set(t.sequence[t.loss_nodes].tolist())) for t in trees))


class Predicted(NamedTuple):
    """What the model predicts at m loss pairs.

    Attributes:
        logprobs: Log-prob of the target token, shape [m]. Differentiable.
        correct: Whether the target is the model's most likely token, shape [m], bool.
        top_logprobs: Log-probs of the scorer's top-k tokens, shape [m, k]. Differentiable.
        best_ids: The model's own most likely tokens, shape [m, num_best].
        best_logprobs: Their log-probs, shape [m, num_best]. Detached.
    """

    logprobs: torch.Tensor
    correct: torch.Tensor
    top_logprobs: torch.Tensor
    best_ids: torch.Tensor
    best_logprobs: torch.Tensor


def _predict_chunk(
    head: Head, hidden: torch.Tensor, target: torch.Tensor, top_ids: torch.Tensor, num_best: int
) -> tuple[torch.Tensor, ...]:
    """The fields of :class:`Predicted` for at most CHUNK pairs; ``hidden`` is [pairs, d]."""
    # In float32: bfloat16 rounds a log-prob near -3 to steps of 1/64, which is 0.8 % of a ratio.
    logprobs = head(hidden).float().log_softmax(-1)
    of_target = logprobs.gather(1, target[:, None])[:, 0]
    # At least one, for ``correct``; more only for a scorer. No gradient flows through them.
    best_logprobs, best_ids = logprobs.detach().topk(max(num_best, 1), -1)
    correct = best_ids[:, 0] == target
    of_top = logprobs.gather(1, top_ids)
    return of_target, correct, of_top, best_ids[:, :num_best], best_logprobs[:, :num_best]


def predict(head: Head, hidden: torch.Tensor, packed: PackedTrees, num_best: int = 0) -> Predicted:
    """Apply the output layer to the loss pairs of a row, chunk by chunk.

    If there are several chunks, each is computed again in the backward pass, so no more than CHUNK
    rows of logits are ever in memory.

    Args:
        head: Maps hidden states [pairs, d] to logits [pairs, vocabulary].
        hidden: Last hidden states of the row, [t, d].
        packed: The row.
        num_best: How many of the model's own most likely tokens to return.
    """
    rows, top_ids = hidden[packed.source], packed.streams["top_ids"]
    starts = range(0, max(1, len(packed.target)), CHUNK)
    chunks = []
    for low in starts:
        part = slice(low, low + CHUNK)
        args = (head, rows[part], packed.target[part], top_ids[part], num_best)
        if len(starts) == 1 or not torch.is_grad_enabled():
            chunks.append(_predict_chunk(*args))
        else:
            chunks.append(checkpoint(_predict_chunk, *args, use_reentrant=False))
    return Predicted(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


@dataclass(frozen=True)
class Sums:
    """Weighted sums over the loss pairs of one row, not divided by anything.

    Attributes:
        loss: The numerator of the objective. Differentiable.
        correct: Sum of ``ce_weight`` where the model's most likely token is the target.
        clipped: Sum of ``pg_weight`` where the clip removes the gradient.
        divergence: Sum of ``kl_weight`` times the divergence. If the advantage is the log-ratio to
            a scorer, also ``pg_weight`` times the estimated reverse KL.
    """

    loss: torch.Tensor
    correct: float
    clipped: float
    divergence: float


def weighted_sums(objective: Objective, predicted: Predicted, packed: PackedTrees) -> Sums:
    """Sum all three streams over one row. A stream without any weight is not computed."""
    streams, logprobs = packed.streams, predicted.logprobs
    if objective.temperature != 1 and bool(streams["ce_weight"].any()):
        raise ValueError(
            "cross-entropy needs log-probs of temperature 1, but the objective's temperature is "
            f"{objective.temperature:g}"
        )
    # 0 * -inf is NaN: pairs without a weight are replaced before they are multiplied.
    learned = torch.where(streams["ce_weight"] != 0, logprobs, 0.0)
    loss = -(streams["ce_weight"] * learned).sum()
    clipped = divergence = 0.0
    if bool(streams["pg_weight"].any()):
        per_token, is_clipped, reverse_kl = policy_gradient(objective, logprobs, packed)
        loss = loss + (streams["pg_weight"] * per_token).sum()
        clipped = float((streams["pg_weight"] * is_clipped).sum())
        divergence = float((streams["pg_weight"] * reverse_kl).sum())
    if bool(streams["kl_weight"].any()):
        per_token = per_token_divergence(objective, predicted, streams)
        loss = loss + objective.coefficient * (streams["kl_weight"] * per_token).sum()
        divergence += float((streams["kl_weight"] * per_token.detach()).sum())
    correct = float((streams["ce_weight"] * predicted.correct).sum())
    return Sums(loss, correct, clipped, divergence)


def policy_gradient(
    objective: Objective, logprobs: torch.Tensor, packed: PackedTrees
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The negated clipped surrogate of PPO (arXiv 1707.06347, equation 7) for each loss pair:

        -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A),   ratio = p / p_old

    With ``ratio="sequence"`` the ratio is the geometric mean over the tokens of an episode (GSPO,
    arXiv 2507.18071). With ``truncation`` each token is weighted by min(p_old / p_sampler,
    truncation), which is truncated importance sampling against the mismatch between sampler and
    trainer. p_old is then the trainer's own log-prob before the first update (the stream ``old``);
    without truncation it is the sampler's (the stream ``behavior``).

    Returns:
        Three tensors of shape [m]: the loss; whether the clip removes the gradient; and an estimate
        of the reverse KL to the scorer, which is 0 unless the advantage is the log-ratio to it.
    """
    streams = packed.streams
    taken = streams["pg_weight"] != 0
    behavior, advantage = streams["behavior"], streams["advantage"]
    reverse_kl = torch.zeros_like(logprobs)
    # ``old`` and ``behavior`` are constants, so the gradient flows through ``logprobs`` only. Pairs
    # without a weight are set to ratio 1, or their undefined values could overflow.
    old = streams.get("old", behavior)
    log_ratio = torch.where(taken, logprobs - old, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if objective.ratio == "sequence":
        log_ratio = _mean_of_sequence(log_ratio, taken, packed.sequence)
    ratio = log_ratio.exp()
    if objective.advantage == "log_ratio":
        # The advantage is taken at the student as it is now and not differentiated. K3 under the
        # ratio: the expectation over p_old of ratio * (e^r - 1 - r) is the reverse KL of p.
        advantage = torch.where(taken, _log_ratio_to_scorer(streams, logprobs.detach()), 0.0)
        reverse_kl = ratio.detach() * (advantage.expm1() - advantage)
    # ``clamp`` accepts None for one side, but not for both.
    low = None if objective.clip_low is None else 1 - objective.clip_low
    high = None if objective.clip_high is None else 1 + objective.clip_high
    clamped = ratio if low is high is None else ratio.clamp(low, high)
    # Where the minimum is the clamped term, it is constant and the token has no gradient.
    per_token = -torch.minimum(ratio * advantage, clamped * advantage)
    if objective.truncation is not None:
        per_token = per_token * (old - behavior).exp().clamp(max=objective.truncation)
    return per_token, (clamped * advantage < ratio * advantage) & taken, reverse_kl


def _log_ratio_to_scorer(streams: dict[str, torch.Tensor], logprobs: torch.Tensor) -> torch.Tensor:
    """r = log(p_scorer / p_student) of each token, shape [m], bounded so that exp(r) is finite."""
    return (streams["score"].clamp(min=MIN_LOGPROB) - logprobs).clamp(max=MAX_LOG_RATIO)


def _mean_of_sequence(
    values: torch.Tensor, taken: torch.Tensor, sequence: torch.Tensor
) -> torch.Tensor:
    """For each pair the mean of ``values`` over the taken pairs of its episode, all [m]."""
    size = int(sequence.max()) + 1
    sums = values.new_zeros(size).index_add(0, sequence, values)
    counts = values.new_zeros(size).index_add(0, sequence, taken.to(values.dtype))
    return (sums / counts.clamp(min=1))[sequence]


def per_token_divergence(
    objective: Objective, predicted: Predicted, streams: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Divergence of the student from the scorer at each pair, [m]; 0 where ``kl_weight`` is 0.

    k1, k2 and k3 are Schulman's estimators of the reverse KL from one token
    (http://joschu.net/blog/kl-approx.html), with r = log(p_scorer / p_student).
    """
    taken = streams["kl_weight"] != 0
    if objective.divergence == "jsd":
        teacher = torch.where(taken[:, None], streams["top_logprobs"], -torch.inf)
        return torch.where(taken, jsd(predicted.top_logprobs, teacher, objective.jsd_beta), 0.0)
    r = torch.where(taken, _log_ratio_to_scorer(streams, predicted.logprobs), 0.0)
    if objective.divergence == "k1":
        return -r
    return r.square() / 2 if objective.divergence == "k2" else r.expm1() - r


def jsd(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalized Jensen-Shannon divergence as in GKD (arXiv 2306.13649, section 2), [m]:

        beta KL(teacher || mix) + (1 - beta) KL(student || mix)
        mix = beta teacher + (1 - beta) student

    with beta 0 as KL(teacher || student) and 1 as KL(student || teacher), which are its limits
    after division by beta and by 1 - beta. It is computed over k tokens and one bin for all other
    tokens; that is exact if the k tokens are the vocabulary, else a lower bound.

    Args:
        student: Log-probs of the student for the teacher's top-k tokens, [m, k].
        teacher: Log-probs of the teacher for them, [m, k]. An entry of -inf is padding.
        beta: Between 0 and 1.
    """
    p, q = _with_rest(teacher, teacher), _with_rest(student, teacher)
    if beta in (0, 1):
        return _kl(p, q) if beta == 0 else _kl(q, p)
    # log(beta e^p + (1 - beta) e^q), stable for tiny probabilities.
    mix = torch.logaddexp(p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())
    return beta * _kl(p, mix) + (1 - beta) * _kl(q, mix)


MIN_MASS = 1e-12  # of the bin for all other tokens, which rounding may leave at 0 or just below


def _with_rest(logprobs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Append the bin of the tokens that are not listed, [m, k + 1].

    Padding gets MIN_MASS in both distributions, so that it adds nothing to a divergence.
    """
    padding = teacher == -torch.inf
    logprobs = torch.where(padding, -torch.inf, logprobs.clamp(min=MIN_LOGPROB))
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp(min=MIN_MASS).log()
    listed = torch.where(padding, torch.log(torch.tensor(MIN_MASS)), logprobs)
    return torch.cat([listed, rest], -1)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probs [m, bins], [m]."""
    return (p.exp() * (p - q)).sum(-1)
