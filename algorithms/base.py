"""What an algorithm decides: who acts, who labels, and with which weight each token is learned.

The roll-out, the environment, the trainer and the evaluation know no algorithm by name. They ask
an :class:`Algorithm`. Each method is one short file beside this one, or a class of another
package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from algorithms.objective import Objective
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.store import Round
from swe_gym_env.types import Episode, Scores


def _any_episode(_: Episode) -> bool:
    return True


@dataclass(frozen=True)
class Collect:
    """What to gather in one round.

    Attributes:
        mixer: Who acts, turn by turn: the student or the teacher.
        repeats: Episodes of each task.
        annotate: ``label`` asks the teacher for its turn in each state that the actors reach.
        learned: Whether an episode will be learned from, as far as that is known when it has ended.
            With ``workers.label_at=end`` only such an episode is labeled.
        temperature: The student's sampling temperature; None leaves the configuration's.
        top_p: The student's nucleus sampling; None leaves the configuration's.
    """

    mixer: Mixer
    repeats: int = 1
    annotate: Literal["nothing", "label"] = "label"
    learned: Callable[[Episode], bool] = field(default=_any_episode, compare=False)
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Scoring:
    """Which log-probabilities of the executed turns a method needs after each round.

    Attributes:
        scorer: ``teacher``, or ``start``: the student as it was before the first round.
        turns: Whose turns are scored: everyone's (``all``) or the student's alone.
        top_k: How many of the scorer's most likely tokens are kept at each position.
    """

    scorer: Literal["teacher", "start"]
    turns: Literal["all", "student"] = "all"
    top_k: int = 0


@dataclass(frozen=True)
class Target:
    """A text to learn in the state before one turn. All weights are per token.

    Attributes:
        turn: Index of the turn in the episode.
        text: What to learn. None is the executed turn, in the very tokens that were sampled. Any
            other text, even one that equals the executed turn's, is learned in the tokens that the
            tokenizer gives it, followed by the student's end-of-turn token.
        weight: Weight of the cross-entropy.
        pg_weight: Weight of the policy gradient; needs ``text`` None.
        advantage: Of the policy gradient: one number, or one for each sampled token.
        kl_weight: Weight of the divergence from ``scores``; needs ``text`` None.
        scores: Log-probabilities that a scorer gave to the executed tokens. The divergence needs
            them, and so does a policy gradient whose advantage is ``log_ratio``
            (:class:`~algorithms.objective.Objective`).
    """

    turn: int
    text: str | None
    weight: float = 1.0
    pg_weight: float = 0.0
    advantage: float | Sequence[float] = 0.0
    kl_weight: float = 0.0
    scores: Scores | None = None


@dataclass(frozen=True)
class TrainingExample:
    """One episode and all that is learned from it. It becomes one token tree.

    Attributes:
        episode: What was played.
        targets: What is learned, in any order.
        group: Consecutive examples with the same group share one tree, and so their common prompt.
            An empty group shares nothing.
    """

    episode: Episode
    targets: tuple[Target, ...]
    group: str = ""


class Algorithm(ABC):
    """A method of training. Rounds are numbered from 1; round 0 is iteration 0, the warm start.

    Attributes:
        name: The method's name in run folders, tables and messages.
    """

    name: str

    @property
    def objective(self) -> Objective:
        """The loss. The default is cross-entropy alone."""
        return Objective()

    @property
    def scoring(self) -> Scoring | None:
        """The log-probabilities that :meth:`examples` needs; None if it needs none."""
        return None

    @abstractmethod
    def collect(self, round: int) -> Collect:
        """What to gather in ``round``. Round 0 is asked only of ``iteration0.algorithm``."""

    @abstractmethod
    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        """What to train on after the newest of ``rounds``, which begin with round 0."""

    def extra_tasks(self, planned: int, episodes: Sequence[Episode]) -> int:
        """How many more tasks to play in this round (dynamic sampling).

        Args:
            planned: How many tasks the configuration gives to a round.
            episodes: All episodes that the round has so far, extra tasks included.

        Returns:
            0 when the round is complete. Otherwise those tasks are played and this is asked again.
        """
        return 0
