"""What training minimizes, as data: which losses on which streams of a token tree.

A tree carries three streams of weights (``tree.py``): cross-entropy, policy gradient, divergence.
The loss of an optimizer batch is

    ( sum ce_weight * CE  +  sum pg_weight * PG  +  coefficient * sum kl_weight * D ) / denominator

with one denominator, which is known before the first micro-batch. Packing, order and accumulation
can therefore not change the result. ``losses.py`` computes it.
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
    """The losses and their options.

    Below, r = log(p_scorer / p_student) of the executed token.

    Attributes:
        ratio: Ratio of the new and the old policy: "token" for each token (PPO, arXiv 1707.06347)
            or "sequence" for the geometric mean over the tokens of an episode (GSPO, arXiv
            2507.18071).
        clip_low: The ratio is clipped to at least 1 - clip_low; None for no bound.
        clip_high: The ratio is clipped to at most 1 + clip_high; None for no bound.
        truncation: None: the sampler's log-probs are the old policy. A number: the old policy is
            the trainer itself before its first update, and each token is weighted by
            min(p_old / p_sampler, truncation) against the mismatch of sampler and trainer.
        divergence: Divergence from the scorer. k1 = -r, k2 = r^2 / 2 and k3 = exp(r) - r - 1 are
            Schulman's estimators of the reverse KL. As a *loss* on the student's own tokens, k2 has
            the gradient of the reverse KL, k3 that of the forward KL, and k1 none in expectation.
            "jsd" is GKD's generalized Jensen-Shannon divergence (arXiv 2306.13649) over the
            scorer's top-k tokens and one bin for all others.
        coefficient: Weight of the divergence.
        jsd_beta: 0 is the forward KL, 1 the reverse KL.
        denominator: "weights": the sum over tokens of the largest of their weights; "sequences":
            the number of episodes that have a weighted token.
        advantage: "given": that of the target. "log_ratio": r, of the student as it is before each
            update. Weighted by the ratio of the policies, its policy gradient is that of the
            reverse KL to the scorer at every update, not only at the first.
        temperature: All log-probs of the student are of softmax(logits / temperature). It must be
            the temperature of sampling, and of the scores. Cross-entropy needs 1.
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
                raise ValueError(f"{name}={getattr(self, name)} must be one of {known}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{field.name}={value} must not be negative")
        if self.temperature == 0:
            raise ValueError("temperature=0 must be positive: greedy sampling has no gradient")
        if not 0 <= self.jsd_beta <= 1:
            raise ValueError(f"jsd_beta={self.jsd_beta} must be between 0 and 1")
