"""An algorithm is a row of a table: who acts x who labels x which weight each token gets.

The roll-out, the environment, the trainer and the evaluation know nothing of algorithms; a file
beside this one says only what is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from algorithms.engine.objective import Objective
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.store import Round
from swe_gym_env.types import Episode, Scores


@dataclass(frozen=True)
class Collect:
    """What to gather in one round.

    ``repeats`` episodes of each task. ``annotate``: ask the teacher for its turn in each state.
    ``score``: have the teacher, or the student as it was before the first round, give the log-probs
    of the executed turns (``score_turns``: everyone's, or the student's), with its ``top_k`` most
    likely tokens at each place. ``temperature`` and ``top_p`` are the student's where the method
    has its own; None leaves the configuration's.
    """

    mixer: Mixer
    repeats: int = 1
    annotate: Literal["nothing", "label"] = "label"
    score: Literal["nothing", "teacher", "start"] = "nothing"
    score_turns: Literal["all", "student"] = "all"
    top_k: int = 0
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Target:
    """Text to learn in the state before turn ``turn`` of ``episode``; all weights are per token.

    ``text`` None means the executed turn itself: its own tokens, as they were sampled. Any other
    text, also the executed turn's own, is learned in the tokens that the tokenizer gives it, and
    the student's end-of-turn token after it. ``weight`` is of the cross-entropy, ``pg_weight`` of
    the policy gradient with ``advantage`` (one number, or one per sampled token), ``kl_weight`` of
    the divergence from ``scores``, which a policy gradient may ask for too
    (``Objective.advantage``); the latter two need ``text`` None.
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
    """One episode and all that is to be learned from it. It becomes one token tree; training
    examples that follow each other with the same ``group`` share a tree, and so their common
    prompt."""

    episode: Episode
    targets: tuple[Target, ...]
    group: str = ""


class Algorithm(Protocol):
    """The row: whom to let act, and what to learn from what came of it. Round 0 is iteration 0."""

    @property
    def name(self) -> str: ...

    @property
    def objective(self) -> Objective: ...

    def collect(self, round: int) -> Collect: ...

    def more(self, planned: int, episodes: Sequence[Episode]) -> int:
        """How many more tasks to play once the round's ``planned`` tasks gave ``episodes``."""

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        """What to train on after the newest of ``rounds``."""


class Plain:
    """What most methods share: cross-entropy alone, and a round is as long as planned."""

    objective = Objective()

    def more(self, planned: int, episodes: Sequence[Episode]) -> int:
        return 0
