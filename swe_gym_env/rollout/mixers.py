"""Who takes the turn: the student or the teacher. Drawn from the state's key, never from order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swe_gym_env.policies.base import Key, keyed_rng
from swe_gym_env.types import Actor


class Mixer(Protocol):
    """Asked once for each turn of each episode."""

    def actor(self, key: Key) -> Actor:
        """Depends on nothing but ``key``."""


@dataclass(frozen=True)
class PerTurnBeta:
    """DAgger's mixture: the teacher takes each turn with probability ``beta``."""

    beta: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta is a probability, not {self.beta}")

    def actor(self, key: Key) -> Actor:
        return "teacher" if keyed_rng(key).random() < self.beta else "student"


@dataclass(frozen=True)
class StudentOnly:
    """On-policy collection and evaluation."""

    def actor(self, key: Key) -> Actor:
        return "student"


@dataclass(frozen=True)
class TeacherOnly:
    """Behavior cloning: demonstrations."""

    def actor(self, key: Key) -> Actor:
        return "teacher"


@dataclass(frozen=True)
class PerEpisodeBeta:
    """The teacher takes a whole episode with probability ``beta``, the student the others."""

    beta: float

    def __post_init__(self) -> None:
        PerTurnBeta(self.beta)

    def actor(self, key: Key) -> Actor:
        return PerTurnBeta(self.beta).actor((*key[:4], 0, "episode"))


@dataclass(frozen=True)
class SingleSwitch:
    """The student takes the first kappa turns, the teacher all others. kappa is drawn for each
    episode from {0, ..., ``most``}; beyond an episode's end it is the student's alone."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ValueError(f"the latest switch is at turn 0 or later, not {self.most}")

    def kappa(self, key: Key) -> int:
        return int(keyed_rng((*key[:4], 0, "switch")).integers(self.most + 1))

    def actor(self, key: Key) -> Actor:
        return "student" if key[4] < self.kappa(key) else "teacher"
