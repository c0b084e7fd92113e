"""What the expert says with a turn: a few short wordings of each, as a real teacher would vary."""

from __future__ import annotations

import numpy as np

from swe_gym_env.types import ToolCall

_SAYINGS = {
    "view": ("Look at the code.", "Read the code first.", "View these lines."),
    "search": ("Find it.", "Find where it is.", "Search for it."),
    "diff": ("See what was changed.", "Check what changed.", "Look at the changes so far."),
    "log": ("Find the first commit.", "See the commits.", "Look at the history."),
    "undo": ("Undo the wrong change.", "That change is wrong: undo it.", "Undo that."),
    "clean": ("Remove the extra files.", "Clean up.", "Remove what does not belong."),
    "edit": ("Fix it.", "Fix this line.", "Repair the code."),
    "insert": ("A line is missing here.", "A line is missing: add it.", "Add the missing line."),
    "delete": ("This line should not be here.", "Remove this line.", "This line must go."),
    "test": ("Run the tests.", "Test it.", "Check with the tests."),
    "check": ("Check the diff.", "Look at the final diff."),
    "finish": ("Done.", "The bug is fixed.", "All done."),
}


def say(rng: np.random.Generator, kind: str) -> str:
    return str(rng.choice(_SAYINGS[kind]))


def bash(rng: np.random.Generator, kind: str, command: str) -> ToolCall:
    return ToolCall("bash", {"command": command}, say(rng, kind))
