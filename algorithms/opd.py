"""On-policy distillation: the student acts, and the teacher gives the log-prob of every token.

The loss descends the reverse KL to the teacher on the student's tokens. As published by Thinking
Machines (2025), the log-ratio teacher / student is the advantage of each token. They make one
update per batch of samples. A round of ours has several, and an advantage of the first student
would lead past the teacher; so it is computed again before each update (``Objective.advantage``).
As a loss, ``k2`` has the same expected gradient in the first update, ``k3`` has the gradient of the
forward KL, and ``k1`` has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from algorithms.base import Algorithm, Collect, Round, Scoring, Target, TrainingExample
from algorithms.filters import at_least_one, chosen, one_distribution, one_of
from algorithms.objective import Objective
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Episode, Scores

Estimator = Literal["advantage", "k1", "k2", "k3"]


@dataclass(frozen=True)
class OPD(Algorithm):
    """Who acts: student. Label: the executed turn. Weight: the teacher's reverse KL, per token.

    Attributes:
        estimator: ``advantage`` is the published policy gradient; ``k1``, ``k2`` and ``k3`` descend
            an estimator of the KL as a loss.
        recompute: The advantage is that of the student before each update. False takes the student
            that acted, which is right in the first update alone; older results were made so.
        repeats: Episodes of each task.
        clip: The ratio is clipped to [1 - clip, 1 + clip]; None does not clip.
        truncation: See ``Objective``.
        temperature: The student's sampling temperature. The log-probs of student and teacher are
            those of softmax(logits / temperature).
        top_p: Must be 1.
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
            yield TrainingExample(episode, tuple(self._target(episode, *pair) for pair in scored))

    def _target(self, episode: Episode, index: int, scores: Scores) -> Target:
        if self.estimator != "advantage":
            return Target(index, None, weight=0.0, kl_weight=1.0, scores=scores)
        student = episode.turns[index].logprobs  # an end of turn that nobody sampled has none
        first = tuple(t - s for t, s in zip(scores.logprobs, student, strict=False))
        return Target(index, None, weight=0.0, pg_weight=1.0, advantage=first, scores=scores)
