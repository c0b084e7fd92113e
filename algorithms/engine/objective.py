"""What a training run descends, as data: which losses on which streams of a token tree.

A tree carries three streams of weights (``tree.py``): cross-entropy, policy gradient, divergence.
The loss of an optimizer batch is

    ( sum ce_weight * CE  +  sum pg_weight * PG  +  coefficient * sum kl_weight * D ) / denominator

with one denominator, known before the first micro-batch, so that packing, order and accumulation
cannot change the result.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Ratio = Literal["token", "sequence"]
Denominator = Literal["weights", "sequences"]
Kind = Literal["k1", "k2", "k3", "jsd"]
Advantage = Literal["given", "log_ratio"]


@dataclass(frozen=True)
class Objective:
    """``ratio``: of the policies, per token (PPO) or the geometric mean over a sequence's tokens
    (GSPO, arXiv 2507.18071). It is clipped to [1 - clip_low, 1 + clip_high]; null is no clip.

    ``advantage``: of the policy gradient: that of the target, or the log-ratio scored / student, of
    the student as it is before each update. Weighted by the policies' ratio, the latter descends
    the reverse KL to the scorer at every update, not only at the first.

    ``temperature``: all log-probs of the student are of softmax(logits / temperature), which must
    be what the tokens were drawn from (and the scorer asked for); cross-entropy is learned at 1.

    ``truncation``: the trainer's own log-probs before the first update are the old policy, and each
    token is weighted by min(old / behavior, truncation) against the mismatch between sampler and
    trainer. Null: the sampler's log-probs are the old policy.

    ``divergence`` with r = log(scored / student) on the token that stands there: k1 = -r,
    k2 = r^2 / 2, k3 = exp(r) - r - 1 (Schulman's estimators of the reverse KL). As a *loss* on the
    student's own tokens k2 has the gradient of the reverse KL, k3 that of the forward KL, and k1
    none in expectation. ``jsd`` is GKD's generalized Jensen-Shannon divergence (arXiv 2306.13649)
    over the scorer's top-k tokens and one bin for all others: ``jsd_beta`` 0 is the forward KL,
    1 the reverse.

    ``denominator``: ``weights`` sums over the tokens the largest of their weights; ``sequences``
    counts the episodes that have a weighted token.
    """

    ratio: Ratio = "token"
    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    truncation: float | None = None
    divergence: Kind = "k3"
    coefficient: float = 1.0
    jsd_beta: float = 0.5
    denominator: Denominator = "weights"
    advantage: Advantage = "given"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        kinds = {"ratio": Ratio, "divergence": Kind, "denominator": Denominator}
        for name, kind in {**kinds, "advantage": Advantage}.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}={getattr(self, name)}: it is one of {known}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{field.name}={value} must not be negative")
        if self.temperature == 0:
            raise ValueError("temperature=0 must be positive: a greedy draw has no gradient")
        if not 0 <= self.jsd_beta <= 1:
            raise ValueError(f"jsd_beta={self.jsd_beta} lies in [0, 1]")
