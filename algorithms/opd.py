"""On-policy distillation: the student acts, and the teacher says of every token how likely it is.

Descends the reverse KL to the teacher on the student's own tokens. As published by Thinking
Machines (2025) the log-ratio teacher / student is each token's advantage. They take one update per
batch of samples; where a round has more, an advantage that stayed that of the first student would
lead past the teacher, so it is computed again before each (``Objective.advantage``). ``k2`` as a
loss has the same expected gradient in the first update, ``k3`` that of the forward KL, ``k1`` none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from algorithms.base import Algorithm, Collect, Round, Scoring, Target, TrainingExample
from algorithms.engine.objective import Objective
from algorithms.filters import at_least_one, chosen, one_distribution, one_of
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Episode, Scores

Estimator = Literal["advantage", "k1", "k2", "k3"]


@dataclass(frozen=True)
class OPD(Algorithm):
    """Who acts: student. Label: the executed turn. Weight: the teacher's reverse KL, per token.

    ``recompute``: the advantage is that of the student before each update; False: of the student
    who acted, which is right in the first update alone, and how older results were made.
    ``clip``: of the ratio, on both sides; None for none. ``truncation``: see ``Objective``.
    ``temperature``: of the student while it collects; the log-probs of both, student and teacher,
    are of softmax(logits / temperature).
    """

    estimator: Estimator = "advantage"
    recompute: bool = True
    repeats: int = 1
    clip: float | None = None
    truncation: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    name: str = "opd"

    def __post_init__(self) -> None:
        one_of(Estimator, estimator=self.estimator)
        at_least_one(repeats=self.repeats)
        one_distribution(self.temperature, self.top_p)
        _ = self.objective

    @property
    def objective(self) -> Objective:
        gradient = self.estimator == "advantage"
        return Objective(
            clip_low=self.clip,
            clip_high=self.clip,
            truncation=self.truncation,
            divergence="k3" if self.estimator == "advantage" else self.estimator,
            advantage="log_ratio" if gradient and self.recompute else "given",
            temperature=self.temperature,
        )

    @property
    def scoring(self) -> Scoring:
        return Scoring("teacher")

    def collect(self, round: int) -> Collect:
        return Collect(
            StudentOnly(),
            self.repeats,
            annotate="nothing",
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for round, episode in chosen(rounds, "all", "latest"):
            scored = round.scores_of(episode).items()
            yield TrainingExample(episode, tuple(self._target(episode, *one) for one in scored))

    def _target(self, episode: Episode, index: int, scores: Scores) -> Target:
        if self.estimator != "advantage":
            return Target(index, None, weight=0.0, kl_weight=1.0, scores=scores)
        own = episode.turns[index].logprobs
        first = tuple(t - s for t, s in zip(scores.logprobs, own, strict=False))
        return Target(index, None, weight=0.0, pg_weight=1.0, advantage=first, scores=scores)
