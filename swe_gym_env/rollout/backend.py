"""What the driver needs of a back end: that it plays episodes somewhere and says how they ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from swe_gym_env.rollout.playing import LostEpisodeError, Played
from swe_gym_env.rollout.running import Request


@dataclass(frozen=True)
class TurnDone:
    """An episode has executed a turn."""


@dataclass(frozen=True)
class PlayEnded:
    """An episode plays no longer, and another one can take its slot; it is still to be graded."""


@dataclass(frozen=True)
class Ended:
    """All is over for one attempt.

    Attributes:
        request: Which episode.
        attempt: Which attempt, from 1.
        result: The record, or why there is none. Any other exception ends the roll-out.
        began: When the attempt began (``time.monotonic``).
        slot: Whether its slot becomes free only now, because there was no :class:`PlayEnded`.
        turns: Executed turns for which there was no :class:`TurnDone`.
    """

    request: Request
    attempt: int
    result: Played | LostEpisodeError | BaseException
    began: float
    slot: bool = False
    turns: int = 0


Event = TurnDone | PlayEnded | Ended
Post = Callable[[Event], None]


class Backend(Protocol):
    """Plays episodes, on this machine or on others. All is called by the driver's thread."""

    def start(self, request: Request, attempt: int, post: Post) -> None:
        """Begin an attempt and return at once. ``post`` is safe to call from any thread."""

    def upcoming(self, requests: Sequence[Request]) -> None:
        """The requests that are next, for a provider that starts sandboxes early."""

    def left(self) -> None:
        """An episode plays no longer. Called after its slot has been filled again, if it is."""

    def look(self) -> None:
        """Called about every second. May raise SetupError where the roll-out cannot go on."""

    def hurry(self) -> None:
        """The roll-out ends early: begin nothing new, and grade for ten more seconds."""

    def close(self) -> None:
        """Leave nothing behind: no sandbox, no thread, no task."""
