"""The assistant message of OpenAI's chat API as JSON text, as in most recorded episodes.

The arguments are JSON inside of a JSON string, as in that API. The format is meant for the exchange
of turns with other programs; small models get the double quoting wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Any

from swe_gym_env.actions.base import FormatError
from swe_gym_env.actions.json_call import decode, dump, to_call, to_json, whole
from swe_gym_env.actions.speech import Span, escaped, spoken, unescaped
from swe_gym_env.tools.schema import ALL, Tool
from swe_gym_env.types import ToolCall

_BEGIN = re.compile(r"(?:^|(?<=[\s>\]▷\ufeff]))\{")
MOST_OBJECTS = 50  # JSON objects that are examined; thoughts may contain some of them


class OpenAITools:
    """``{"content": ..., "tool_calls": [{"type": "function", "function": {...}}]}``."""

    name = "openai_tools"
    example = (
        '{"tool_calls": [{"type": "function", "function": '
        '{"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}}]}'
    )

    def __init__(self, tools: tuple[Tool, ...] = ALL) -> None:
        self.tools = tools

    def describe(self) -> str:
        listed = "\n".join(dump(tool.json_schema()) for tool in self.tools)
        return (
            f"These are the tools:\n{listed}\n"
            "Each reply is one JSON object, a short thought and one call with its arguments as a "
            'JSON string:\n{"content": THOUGHT, "tool_calls": [{"type": "function", "function": '
            '{"name": NAME, "arguments": "{...}"}}]}'
        )

    def parse(self, text: str) -> ToolCall:
        message = whole(spoken(text, _next_call).lstrip("\ufeff"))
        if not isinstance(message, dict):
            raise FormatError("the reply is not a JSON object")
        content, calls = message.get("content"), message.get("tool_calls")
        if not isinstance(content, str | None):
            raise FormatError('"content" is not a string')
        if not isinstance(calls, list) or not calls:
            raise FormatError('"tool_calls" is not a list with one call')
        if len(calls) > 1:
            raise FormatError("more than one call")
        if not isinstance(calls[0], dict):
            raise FormatError("the call is not a JSON object")
        reasoning = unescaped(spoken(content or "", _no_call))
        return to_call(calls[0].get("function"), reasoning)

    def render(self, call: ToolCall) -> str:
        function = {"name": call.name, "arguments": dump(to_json(call))}
        message: dict[str, Any] = {"content": escaped(call.reasoning)} if call.reasoning else {}
        message["tool_calls"] = [{"type": "function", "function": function}]
        return dump(message)


def _next_call(text: str, at: int) -> Span | None:
    """The first JSON object that is a message with calls."""
    for begin in itertools.islice(_BEGIN.finditer(text, at), MOST_OBJECTS):
        with contextlib.suppress(FormatError):
            value, end = decode(text, begin.end() - 1)
            if "tool_calls" in value:
                return begin.end() - 1, end
    return None


def _no_call(text: str, at: int) -> Span | None:
    """The content of a message contains no calls."""
    return None
