"""Generalized knowledge distillation (arXiv 2306.13649): a divergence of whole distributions.

The student or the teacher acts in an entire episode. On the tokens of all episodes the student
learns the teacher's distribution. GKD's lambda is the *student's* share: 1 - beta.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Scoring, Target, TrainingExample
from algorithms.filters import at_least_one, chosen
from algorithms.objective import Objective
from swe_gym_env.rollout.mixers import PerEpisodeBeta


@dataclass(frozen=True)
class GKD(Algorithm):
    """Who acts: student or teacher, episode by episode. Label: the executed turn. Weight: the
    generalized Jensen-Shannon divergence from the teacher, per token.

    Attributes:
        student_share: GKD's lambda, the probability that the student acts in an episode.
        jsd_beta: 0 is the forward KL, 1 the reverse KL.
        top_k: How many of the teacher's most likely tokens are kept at each position.
        temperature: The student's sampling temperature, also of the learned distributions.
        top_p: The student's nucleus sampling while it collects.
    """

    student_share: float = 1.0
    jsd_beta: float = 0.5
    top_k: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    name: str = "gkd"

    def __post_init__(self) -> None:
        _ = self.objective, self.collect(1)
        at_least_one(top_k=self.top_k)

    @property
    def objective(self) -> Objective:
        return Objective(divergence="jsd", jsd_beta=self.jsd_beta)

    @property
    def scoring(self) -> Scoring:
        return Scoring("teacher", top_k=self.top_k)

    def collect(self, round: int) -> Collect:
        return Collect(
            PerEpisodeBeta(1 - self.student_share),
            annotate="nothing",
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for round, episode in chosen(rounds, "all", "latest"):
            yield TrainingExample(
                episode,
                tuple(
                    Target(turn, None, weight=0.0, kl_weight=1.0, scores=score)
                    for turn, score in round.scores_of(episode).items()
                ),
            )
