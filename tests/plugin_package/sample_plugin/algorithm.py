"""DAgger that trusts labels more where the episode was resolved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from swe_gym_env.rollout.mixers import PerTurnBeta


@dataclass(frozen=True)
class OutcomeWeighted(Algorithm):
    """Attributes:
    beta: The teacher's share of the executed turns.
    failed: Weight of the labels of an episode that was not resolved.
    """

    beta: float = 0.5
    failed: float = 0.5
    name: str = "outcome_weighted"

    def collect(self, round: int) -> Collect:
        return Collect(PerTurnBeta(self.beta))

    def examples(self, rounds: Sequence[Round]) -> Iterator[TrainingExample]:
        newest = rounds[-1]
        labels = {(a.episode_id, a.turn): a.text for a in newest.annotations if a.text}
        for episode in newest.episodes:
            weight = 1.0 if episode.outcome.resolved else self.failed
            targets = tuple(
                Target(turn, labels[episode.episode_id, turn], weight)
                for turn in range(len(episode.turns))
                if (episode.episode_id, turn) in labels
            )
            if targets and not episode.outcome.mask:
                yield TrainingExample(episode, targets)
