"""Rejection sampling fine-tuning: several episodes of each task; the resolved ones are learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from algorithms.filters import Aggregation, at_least_one, check, chosen, one_of
from swe_gym_env.rollout.mixers import StudentOnly, TeacherOnly
from swe_gym_env.types import Actor


@dataclass(frozen=True)
class RFT(Algorithm):
    """Who acts: student (or teacher). Label: the executed turn, of resolved episodes. Weight: 1.

    Every turn is learned, also one that the student took because the teacher failed.

    Attributes:
        actor: Who acts.
        repeats: Episodes of each task.
        aggregation: Of which rounds the episodes are (``algorithms/filters.py``).
        window: With ``aggregation`` ``window``, the number of newest rounds.
    """

    actor: Actor = "student"
    repeats: int = 4
    aggregation: Aggregation = "latest"
    window: int = 1
    name: str = "rft"

    def __post_init__(self) -> None:
        check("resolved", self.aggregation, self.window)
        one_of(Actor, actor=self.actor)
        at_least_one(repeats=self.repeats)

    def collect(self, round: int) -> Collect:
        mixer = StudentOnly() if self.actor == "student" else TeacherOnly()
        return Collect(mixer, self.repeats, annotate="nothing")

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for _, episode in chosen(rounds, "resolved", self.aggregation, self.window):
            yield TrainingExample(
                episode, tuple(Target(n, None) for n in range(len(episode.turns)))
            )
