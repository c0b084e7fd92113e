"""Supervised fine-tuning: the teacher acts, and the student learns each of its turns with weight 1.

The default is to learn from episodes that ended with ``finish``, failed ones included. A turn that
the student took, because the teacher failed or its budget was spent, is context without weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from algorithms.filters import Aggregation, Keep, check, chosen
from swe_gym_env.rollout.mixers import TeacherOnly


@dataclass(frozen=True)
class SFT(Algorithm):
    """Who acts: teacher. Label: the executed turn. Weight: 1.

    Attributes:
        keep: Which episodes are learned from (``algorithms/filters.py``).
        aggregation: Of which rounds the episodes are.
    """

    keep: Keep = "finished"
    aggregation: Aggregation = "latest"
    name: str = "sft"

    def __post_init__(self) -> None:
        check(self.keep, self.aggregation)

    def collect(self, round: int) -> Collect:
        return Collect(TeacherOnly(), annotate="nothing")

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for _, episode in chosen(rounds, self.keep, self.aggregation):
            teacher = [n for n, turn in enumerate(episode.turns) if turn.actor == "teacher"]
            yield TrainingExample(episode, tuple(Target(n, None) for n in teacher))
