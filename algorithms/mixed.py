"""The mixed loss: a per-turn mixture acts; teacher turns are imitated, student turns corrected.

As in the later release of "Revisiting DAgger" and in Guided-OPD (arXiv 2606.15912): cross-entropy
on the teacher's turns, an estimator of the KL to the teacher on the student's turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from algorithms.base import Algorithm, Collect, Round, Scoring, Target, TrainingExample
from algorithms.filters import Keep, check, chosen, one_distribution, one_of
from algorithms.objective import Objective
from algorithms.schedules import Schedule
from swe_gym_env.rollout.mixers import PerTurnBeta

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class Mixed(Algorithm):
    """Who acts: per-turn mixture. Label: the executed turn. Weight: 1 on the teacher's turns,
    ``coefficient`` times the divergence from the teacher on the student's.

    On tokens that the student draws from the distribution whose log-probs are learned, the
    published K3 has the expected gradient of the forward KL, and ``k2`` that of the reverse KL.

    Attributes:
        beta: The probability that the teacher takes a turn, round by round.
        estimator: Of the KL divergence.
        coefficient: Weight of the divergence beside the cross-entropy.
        keep: Which episodes are learned from (``algorithms/filters.py``).
        temperature: Must be 1, since cross-entropy is learned at temperature 1.
        top_p: Must be 1.
    """

    beta: Schedule
    estimator: Estimator = "k3"
    coefficient: float = 1.0
    keep: Keep = "all"
    temperature: float = 1.0
    top_p: float = 1.0
    name: str = "mixed"

    def __post_init__(self) -> None:
        check(self.keep, "latest")
        one_of(Estimator, estimator=self.estimator)
        one_distribution(self.temperature, self.top_p)
        if self.temperature != 1:
            raise ValueError(f"algorithm.temperature={self.temperature}: here it can only be 1")
        _ = self.objective

    @property
    def objective(self) -> Objective:
        return Objective(divergence=self.estimator, coefficient=self.coefficient)

    @property
    def scoring(self) -> Scoring:
        return Scoring("teacher", turns="student")

    def collect(self, round: int) -> Collect:
        mixer = PerTurnBeta(self.beta(round - 1) if round else 1.0)
        return Collect(
            mixer,
            annotate="nothing",
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for round, episode in chosen(rounds, self.keep, "latest"):
            targets, scores = [], round.scores_of(episode)
            for index, turn in enumerate(episode.turns):
                if turn.actor == "teacher":
                    targets.append(Target(index, None))
                elif index in scores:
                    score = scores[index]
                    targets.append(Target(index, None, weight=0.0, kl_weight=1.0, scores=score))
            yield TrainingExample(episode, tuple(targets))
