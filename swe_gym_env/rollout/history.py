"""The history window: a policy sees its newest observations, and a note in place of older ones.

An episode keeps everything, and how wide the window was; so training can lay out what was seen at
each turn, and the report shows what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swe_gym_env import prompts
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn


def check(window: int | None) -> None:
    """``window``: how many observations are shown, the one to be answered among them; None: all.

    Raises SetupError.
    """
    if window is not None and window < 1:
        raise SetupError(f"history={window}: it is 1 or more, or null for the whole history")


def windowed(turns: Sequence[Turn], window: int | None) -> tuple[Turn, ...]:
    """The turns before an observation as they are shown with it.

    The task prompt always stays, and so does what the agent said. A short observation stays too:
    the note in its place would be no shorter.
    """
    if window is None:
        return tuple(turns)
    oldest = len(turns) - (window - 1)  # of those that are shown
    return tuple(_noted(turn) if 0 < at < oldest else turn for at, turn in enumerate(turns))


def _noted(turn: Turn) -> Turn:
    note = prompts.left_out(len(turn.observation))
    return replace(turn, observation=note) if len(note) < len(turn.observation) else turn
