"""beta, the teacher's share of the executed turns, as a function of the round.

i is the round, counted from 0. The first ``warmup`` rounds have ``start``. Then, with
p = (i - warmup) / (rounds - 1 - warmup), clipped to [0, 1], so that the last round has p = 1:

    constant      start
    linear        start + (floor - start) p; with ``slope``: max(floor, start - slope (i - warmup))
    cosine        floor + (start - floor) (1 + cos(pi p)) / 2
    exponential   start (floor / start)^p, which needs floor > 0
    step          start while p < 1/2, then floor

The papers' "start 1.0, minus 0.2 per round" is ``linear`` with slope 0.2. In evaluations beta is 0.
(GKD's lambda is the *student's* share: 1 - beta.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["constant", "linear", "cosine", "exponential", "step"]


def latest_switch(index: int, start: int, step: int, cap: int | None) -> int:
    """AggreVaTe's T_max of round ``index``, counted from 0: min(start + step index, cap) turns.
    ``cap`` None is no bound."""
    if min(index, start, step, cap or 0) < 0:
        raise ValueError("start, step and cap of the latest switch must not be negative")
    latest = start + step * index
    return latest if cap is None else min(latest, cap)


@dataclass(frozen=True)
class Schedule:
    """One value per round, each in [0, 1].

    Attributes:
        shape: Which of the functions above.
        start: beta of the first round.
        floor: The smallest beta.
        rounds: Number of rounds over which beta falls; None where the shape needs none.
        warmup: Number of rounds at ``start`` before it falls.
        slope: For ``linear``: by how much beta falls with each round; None reaches ``floor`` in the
            last round.
    """

    shape: Shape = "linear"
    start: float = 1.0
    floor: float = 0.0
    rounds: int | None = None
    warmup: int = 0
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"beta.shape={self.shape}: it is one of {', '.join(get_args(Shape))}")
        for name in ("start", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"beta.{name}={getattr(self, name)}: it must lie in [0, 1]")
        if self.shape != "constant" and self.floor > self.start:
            raise ValueError(f"beta.floor={self.floor} must not be above beta.start={self.start}")
        if (self.rounds is not None and self.rounds < 1) or self.warmup < 0:
            raise ValueError("beta.rounds must be at least 1 and beta.warmup at least 0")
        if self.shape == "exponential" and self.floor <= 0:
            raise ValueError("an exponential never reaches 0: give beta.floor above 0, say 0.05")
        if self.slope is not None and self.shape != "linear":
            raise ValueError(
                f"beta.slope is for linear; with beta={self.shape} give beta.slope=null"
            )
        if self.slope is not None and self.slope < 0:
            raise ValueError(f"beta.slope={self.slope}: it must not be negative")
        if self.rounds is None and self.shape != "constant" and self.slope is None:
            raise ValueError(f"a {self.shape} schedule needs beta.rounds, the number of rounds")

    def __call__(self, index: int) -> float:
        """beta of round ``index``, counted from 0."""
        if index < 0:
            raise ValueError(f"rounds are counted from 0, not {index}")
        since = max(0, index - self.warmup)
        span = (self.rounds or 1) - 1 - self.warmup
        p = min(1.0, since / span) if span > 0 else float(since > 0)
        start, floor = self.start, self.floor
        match self.shape:
            case "constant":
                return start
            case "linear" if self.slope is not None:
                return max(floor, start - self.slope * since)
            case "linear":
                return start + (floor - start) * p
            case "cosine":
                return floor + (start - floor) * (1 + math.cos(math.pi * p)) / 2
            case "exponential":
                return start * (floor / start) ** p
            case _:
                return start if p < 0.5 else floor
