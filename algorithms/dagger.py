"""DAgger over whole turns (arXiv 2605.12913): a mixture acts, the teacher labels every state.

The student learns the teacher's turn given the state, with weight 1. The history consists of the
executed turns. In states in which the teacher acted, its turn is the label. A state whose label
failed is not learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from algorithms.filters import Aggregation, Keep, check, chosen, kept, one_of
from algorithms.schedules import Schedule
from swe_gym_env.rollout.mixers import PerTurnBeta
from swe_gym_env.types import Annotation, Episode

Labels = Literal["all", "student_turns", "executed_by_teacher"]


@dataclass(frozen=True)
class DAgger(Algorithm):
    """Who acts: per-turn mixture. Label: the teacher's turn in every state. Weight: 1.

    A turn that a teacher executed and nobody labeled is its own label.

    Attributes:
        beta: The probability that the teacher takes a turn, round by round.
        keep: Which episodes are learned from (``algorithms/filters.py``).
        aggregation: Of which rounds the episodes are.
        window: With ``aggregation`` ``window``, the number of newest rounds.
        labels: Learn in all states, in those where the student acted (``student_turns``), or in
            those where the teacher acted (``executed_by_teacher``).
        annotator: Name, in annotations.jsonl, of the only teacher whose labels are learned, also in
            states where another teacher acted. None learns the labels of all teachers.
    """

    beta: Schedule
    keep: Keep = "all"
    aggregation: Aggregation = "latest"
    window: int = 1
    labels: Labels = "all"
    annotator: str | None = None
    name: str = "dagger"

    def __post_init__(self) -> None:
        check(self.keep, self.aggregation, self.window)
        one_of(Labels, labels=self.labels)

    def collect(self, round: int) -> Collect:
        """In round 0 (iteration 0) the teacher acts; the schedule begins with round 1."""
        mixer = PerTurnBeta(self.beta(round - 1) if round else 1.0)
        needs_labels = self.labels != "executed_by_teacher"
        learned = partial(kept, keep=self.keep)
        return Collect(mixer, annotate="label" if needs_labels else "nothing", learned=learned)

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        labels = {id(r): self._by_turn(r.annotations) for r in rounds}
        for round, episode in chosen(rounds, self.keep, self.aggregation, self.window):
            yield TrainingExample(episode, tuple(self._targets(episode, labels[id(round)])))

    def _by_turn(
        self, annotations: Sequence[Annotation]
    ) -> dict[tuple[str, int], list[Annotation]]:
        labels: dict[tuple[str, int], list[Annotation]] = {}
        for label in annotations:
            if self.annotator in (None, label.annotator):
                labels.setdefault((label.episode_id, label.turn), []).append(label)
        return labels

    def _targets(
        self, episode: Episode, labels: dict[tuple[str, int], list[Annotation]]
    ) -> Iterable[Target]:
        for index, turn in enumerate(episode.turns):
            here = labels.get((episode.episode_id, index), [])
            narrowed = {"teacher": "student_turns", "student": "executed_by_teacher"}
            if self.labels == narrowed[turn.actor]:
                continue
            if turn.actor == "teacher" and not (self.annotator and here):
                yield Target(index, None)
                continue
            for label in here:
                if label.text is not None:
                    yield Target(index, label.text)
