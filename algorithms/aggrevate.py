"""AggreVaTe with a single switch (arXiv 2605.12913): the student begins, the teacher takes over.

The student acts for the first kappa turns and the teacher finishes the episode. kappa is drawn for
each episode from {0, ..., T_max(i)}, and T_max grows with the round i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algorithms.base import Algorithm, Collect, Round, Target, TrainingExample
from algorithms.filters import Aggregation, Keep, check, chosen
from algorithms.schedules import latest_switch
from swe_gym_env.rollout.mixers import SingleSwitch


@dataclass(frozen=True)
class AggreVaTe(Algorithm):
    """Who acts: student for kappa turns, then teacher. Label: the teacher's turns. Weight: 1.

    T_max(i) = min(start + step i, cap) turns, where i is 0 in the first round.

    Attributes:
        start: T_max of the first round, in turns.
        step: By how many turns T_max grows with each round.
        cap: The largest T_max, in turns.
        keep: Which episodes are learned from (``algorithms/filters.py``).
        aggregation: Of which rounds the episodes are.
        window: With ``aggregation`` ``window``, the number of newest rounds.
    """

    start: int = 0
    step: int = 2
    cap: int | None = None
    keep: Keep = "all"
    aggregation: Aggregation = "latest"
    window: int = 1
    name: str = "aggrevate"

    def __post_init__(self) -> None:
        check(self.keep, self.aggregation, self.window)
        latest_switch(0, self.start, self.step, self.cap)

    def collect(self, round: int) -> Collect:
        latest = latest_switch(round - 1, self.start, self.step, self.cap) if round else 0
        return Collect(SingleSwitch(latest), annotate="nothing")

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for _, episode in chosen(rounds, self.keep, self.aggregation, self.window):
            teacher = [n for n, turn in enumerate(episode.turns) if turn.actor == "teacher"]
            yield TrainingExample(episode, tuple(Target(n, None) for n in teacher))
