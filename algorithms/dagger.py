"""DAgger over whole turns: a mixture acts, the teacher labels every visited state.

The student learns the teacher's turn given the state, weight 1; the history holds what was
executed. Where the teacher acted itself, its turn is the label. A state whose label failed goes
unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Collect, Lesson, Plain, Round, Target
from algorithms.schedules import Schedule
from algorithms.selection import Aggregation, Keep, check, chosen
from swe_gym_env.agents.mixers import PerTurnBeta
from swe_gym_env.types import Annotation, Episode


@dataclass(frozen=True)
class DAgger(Plain):
    """Who acts: per-turn mixture. Label: the teacher's turn in every state. Weight: 1.

    ``annotator``: learn the labels of that one alone, by its name in annotations.jsonl, also where
    another teacher executed the turn; None: of all that there are.
    """

    beta: Schedule
    keep: Keep = "all"
    aggregation: Aggregation = "latest"
    annotator: str | None = None
    name: str = "dagger"

    def __post_init__(self) -> None:
        check(self.keep, self.aggregation)

    def collect(self, round: int) -> Collect:
        """Round 0 is the teacher's (iteration 0); the schedule begins with round 1."""
        return Collect(PerTurnBeta(self.beta(round - 1) if round else 1.0))

    def lessons(self, rounds: Sequence[Round]) -> Iterable[Lesson]:
        labels = {
            id(r): _by_turn(a for a in r.annotations if self.annotator in (None, a.annotator))
            for r in rounds
        }
        for round, episode in chosen(rounds, self.keep, self.aggregation):
            yield Lesson(episode, tuple(_targets(episode, labels[id(round)], self.annotator)))


def _by_turn(annotations: Iterable[Annotation]) -> dict[tuple[str, int], list[Annotation]]:
    found: dict[tuple[str, int], list[Annotation]] = {}
    for annotation in annotations:
        found.setdefault((annotation.episode_id, annotation.turn), []).append(annotation)
    return found


def _targets(
    episode: Episode, labels: dict[tuple[str, int], list[Annotation]], annotator: str | None
) -> Iterable[Target]:
    for index, turn in enumerate(episode.turns):
        here = labels.get((episode.episode_id, index), [])
        if turn.executor == "teacher" and not (annotator and here):
            yield Target(index, None)
            continue
        for label in here:
            if label.text is not None:
                yield Target(index, label.text)
