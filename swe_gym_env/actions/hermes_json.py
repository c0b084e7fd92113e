"""JSON between <tool_call> tags, the format that the Qwen and Hermes models were trained on.

The system prompt lists the tools as their chat template does. The end of a call is the end of its
JSON value, not the closing tag, so arguments may contain that tag.
"""

from __future__ import annotations

import contextlib
import re

from swe_gym_env.actions.base import FormatError
from swe_gym_env.actions.json_call import decode, dump, to_call, to_json
from swe_gym_env.actions.speech import Span, escaped, spoken, unescaped
from swe_gym_env.tools.schema import ALL, Tool
from swe_gym_env.types import ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_JSON = re.compile(r"\s*(?=\S)")


class HermesJSON:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, after some reasoning."""

    name = "hermes_json"
    example = f'{_OPEN}\n{{"name": "bash", "arguments": {{"command": "ls"}}}}\n{_CLOSE}'

    def __init__(self, tools: tuple[Tool, ...] = ALL) -> None:
        self.tools = tools

    def describe(self) -> str:
        listed = "\n".join(dump(tool.json_schema()) for tool in self.tools)
        return (
            f"These are the tools:\n<tools>\n{listed}\n</tools>\n"
            "Each reply: one short thought, then one call as JSON:\n"
            f'{_OPEN}\n{{"name": NAME, "arguments": {{...}}}}\n{_CLOSE}'
        )

    def parse(self, text: str) -> ToolCall:
        before, tag, rest = spoken(text, _next_call).partition(_OPEN)
        if not tag:
            raise FormatError(f"no {_OPEN}")
        rest = rest.lstrip()
        value, end = decode(rest)
        after = rest[end:].lstrip()
        if not after.startswith(_CLOSE):
            raise FormatError(f"no {_CLOSE} after the JSON")
        if _OPEN in after:
            raise FormatError(f"more than one {_OPEN}")
        return to_call(value, unescaped(before.strip()))

    def render(self, call: ToolCall) -> str:
        # An opening tag in the reasoning would be parsed as the call
        reasoning = escaped(call.reasoning.strip().replace(_OPEN, "<tool call>"))
        value = dump({"name": call.name, "arguments": to_json(call)})
        # Escaped for other readers, which look for the closing tag; in JSON it is the same string
        value = value.replace("</tool", "<\\/tool")
        return f"{reasoning}\n{_OPEN}\n{value}\n{_CLOSE}".lstrip("\n")


def _next_call(text: str, at: int) -> Span | None:
    """From the first opening tag that JSON follows to the end of that JSON."""
    while (start := text.find(_OPEN, at)) >= 0:
        at = start + len(_OPEN)
        if value := _JSON.match(text, at):
            with contextlib.suppress(FormatError):
                return start, decode(text, value.end())[1]
    return None
