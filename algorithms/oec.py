"""On-policy expert corrections (arXiv 2512.14895): AggreVaTe on resolved episodes alone.

The student begins and the teacher takes over at a random turn. The student's turns are context
without weight. Episodes are kept if the tests pass, and dropped if the agent repeated an action.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from algorithms.filters import Aggregation, at_least_one, check, chosen
from swe_gym_env.rollout.mixers import SingleSwitch
from swe_gym_env.types import Episode


@dataclass(frozen=True)
class OEC(Algorithm):
    """Who acts: student until a random turn, then teacher. Label: the teacher's turns of resolved
    episodes. Weight: 1.

    Attributes:
        latest: The switch is uniform on {0, ..., latest} turns.
        most_repeats: An episode in which one action comes more often in a row is dropped.
        repeats: Episodes of each task.
        aggregation: Of which rounds the episodes are (``algorithms/filters.py``).
        window: With ``aggregation`` ``window``, the number of newest rounds.
    """

    latest: int = 6
    most_repeats: int = 2
    repeats: int = 1
    aggregation: Aggregation = "latest"
    window: int = 1
    name: str = "oec"

    def __post_init__(self) -> None:
        check("resolved", self.aggregation, self.window)
        at_least_one(most_repeats=self.most_repeats, repeats=self.repeats)

    def collect(self, round: int) -> Collect:
        return Collect(SingleSwitch(self.latest if round else 0), self.repeats, annotate="nothing")

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for _, episode in chosen(rounds, "resolved", self.aggregation, self.window):
            teacher = [n for n, turn in enumerate(episode.turns) if turn.actor == "teacher"]
            if longest_repetition(episode) <= self.most_repeats:
                yield TrainingExample(episode, tuple(Target(n, None) for n in teacher))


def longest_repetition(episode: Episode) -> int:
    """The largest number of equal actions in a row; 0 for an episode without turns."""
    longest = run = 0
    before: object = None
    for turn in episode.turns:
        action = (turn.action.name, dict(turn.action.arguments)) if turn.action else turn.text
        run = run + 1 if action == before else 1
        longest, before = max(longest, run), action
    return longest
