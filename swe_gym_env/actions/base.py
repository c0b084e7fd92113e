"""How a turn's text says which tool to call. One format per file, all between text and ToolCall."""

from __future__ import annotations

from typing import Protocol

from swe_gym_env.errors import SWEGymError
from swe_gym_env.tools.schema import Tool
from swe_gym_env.types import ToolCall


class FormatError(SWEGymError):
    """A turn's text holds no valid call. The message is shown to the agent: keep it short."""


class ActionFormat(Protocol):
    """Text to call and back. Formats keep no state, so one may serve many episodes.

    A format knows how a call is written, not which tools exist: a call of an unknown tool parses,
    and the toolbox answers it.
    """

    name: str
    example: str  # a shortest valid turn, shown after a mistake
    tools: tuple[Tool, ...]  # what is offered to the agent

    def describe(self) -> str:
        """What the system prompt says of the format and of the tools."""

    def parse(self, text: str) -> ToolCall:
        """Raises FormatError, and nothing else, on any text that is not a valid turn."""

    def render(self, call: ToolCall) -> str:
        """The text of a turn; ``parse(render(call)) == call``. Raises FormatError where the format
        cannot express ``call``."""
