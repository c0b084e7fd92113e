"""The contract of action formats: how the text of a turn states which tool to call.

Each format is a module that converts between text and ToolCall in both directions.
"""

from __future__ import annotations

from typing import Protocol

from swe_gym_env.errors import SWEGymError
from swe_gym_env.tools.schema import Tool
from swe_gym_env.types import ToolCall


class FormatError(SWEGymError):
    """The text of a turn contains no valid call. The agent sees the message, so it is short."""


class ActionFormat(Protocol):
    """Converts text to a call and back. Formats have no state, so one may serve many episodes.

    A format knows how a call is written, but not which tools exist: the call of an unknown tool is
    parsed, and the toolbox answers it.

    Attributes:
        name: The name under which ``swe_gym_env.actions.action_format`` finds it.
        example: A short valid turn, shown to the agent after a mistake.
        tools: The tools that are offered to the agent.
    """

    name: str
    example: str
    tools: tuple[Tool, ...]

    def describe(self) -> str:
        """The part of the system prompt about the format and the tools."""

    def parse(self, text: str) -> ToolCall:
        """The call in the text of a turn.

        Raises:
            FormatError: The text is not a valid turn. No text causes another error.
        """

    def render(self, call: ToolCall) -> str:
        """The text of a turn, for which ``parse(render(call)) == call`` holds.

        Raises:
            FormatError: The format cannot express ``call``.
        """
