"""An algorithm is a row of a table: who acts x who labels x which weight each token gets.

The roll-out, the environment, the trainer and the evaluation know nothing of algorithms; a file
beside this one says only what is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from swe_gym_env.agents.mixers import Mixer
from swe_gym_env.types import Annotation, Episode


@dataclass(frozen=True)
class Collect:
    """What to gather in one round. ``annotate``: ask the teacher for its turn in each state."""

    mixer: Mixer
    repeats: int = 1
    annotate: Literal["nothing", "label"] = "label"


@dataclass(frozen=True)
class Round:
    """What one round left on disk."""

    index: int
    episodes: Sequence[Episode]
    annotations: Sequence[Annotation]


@dataclass(frozen=True)
class Target:
    """Text to learn in the state before turn ``turn`` of ``episode``; ``weight`` per token.

    ``text`` None means the executed turn itself: its own tokens, as they were sampled.
    """

    turn: int
    text: str | None
    weight: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """One episode and all that is to be learned from it: it becomes one token tree."""

    episode: Episode
    targets: tuple[Target, ...]


class Algorithm(Protocol):
    """The row: whom to let act, and what to learn from what came of it. Round 0 is iteration 0."""

    @property
    def name(self) -> str: ...

    def collect(self, round: int) -> Collect: ...

    def lessons(self, rounds: Sequence[Round]) -> Iterable[Lesson]:
        """What to train on after the newest of ``rounds``."""
