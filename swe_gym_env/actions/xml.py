r"""Tags around unescaped arguments, the format of OpenHands and Qwen3-Coder.

Code is written in a turn exactly as in the file. Only the tag that ends a value cannot be part of
it, so that tag is written <\/parameter>, with one more backslash than it had before.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace

from swe_gym_env.actions.base import FormatError
from swe_gym_env.actions.speech import Span, escaped, spoken, unescaped
from swe_gym_env.tools.schema import ALL, Tool
from swe_gym_env.types import ToolCall

_CALL, _END_CALL = "<function=", "</function>"
_ARGUMENT, _END_ARGUMENT = "<parameter=", "</parameter>"
_WRAPPER = "<tool_call>"  # Qwen3-Coder puts the call between these, OpenHands does not
_NAME = re.compile(r"[^<>\s]+")
_ESCAPED = re.compile(r"<\\(\\*/parameter>)")
_TO_ESCAPE = re.compile(r"<(\\*/parameter>)")


class XML:
    """``<function=NAME><parameter=P>value</parameter></function>``, after some reasoning."""

    name = "xml"
    example = "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>"

    def __init__(self, tools: tuple[Tool, ...] = ALL) -> None:
        self.tools = tools

    def describe(self) -> str:
        listed = "\n".join(_listing(tool) for tool in self.tools)
        return (
            f"These are the tools:\n{listed}\n"
            "Each reply: one short thought, then one call:\n"
            f"{_CALL}NAME>\n{_ARGUMENT}ARGUMENT>\nvalue\n{_END_ARGUMENT}\n{_END_CALL}"
        )

    def parse(self, text: str) -> ToolCall:
        text = spoken(text, _next_call)
        start = text.find(_CALL)
        if start < 0:
            raise FormatError(f"no {_CALL}NAME>")
        call, end = _call(text, start)
        if _CALL in text[end:]:
            raise FormatError(f"more than one {_CALL}...>")
        reasoning = text[:start].partition(_WRAPPER)[0].strip()
        return replace(call, reasoning=unescaped(reasoning))

    def render(self, call: ToolCall) -> str:
        for name in (call.name, *call.arguments):
            if not _NAME.fullmatch(name):
                raise FormatError(f"{name[:40]!r} cannot be the name in a tag")
        # An opening tag in the reasoning would be parsed as the call
        reasoning = call.reasoning.replace(_CALL, "<function ").replace(_WRAPPER, "<tool call>")
        lines = [escaped(reasoning.strip()), f"{_CALL}{call.name}>"]
        for name, value in call.arguments.items():
            inner = _TO_ESCAPE.sub(r"<\\\1", value)
            lines += [f"{_ARGUMENT}{name}>", inner, _END_ARGUMENT]
        return "\n".join([*lines, _END_CALL]).lstrip("\n")


def _call(text: str, start: int) -> tuple[ToolCall, int]:
    """The call whose tag begins at ``start``, and the position of its end."""
    name, at = _tag_name(text, start + len(_CALL), _CALL)
    arguments: dict[str, str] = {}
    while text.startswith(_ARGUMENT, at := _skip_blanks(text, at)):
        key, at = _tag_name(text, at + len(_ARGUMENT), _ARGUMENT)
        end = text.find(_END_ARGUMENT, at)
        if end < 0:
            raise FormatError(f"{_ARGUMENT}{key[:40]}> is not closed")
        if key in arguments:
            raise FormatError(f"{_ARGUMENT}{key[:40]}> stands there twice")
        arguments[key] = _value(text[at:end])
        at = end + len(_END_ARGUMENT)
    if not text.startswith(_END_CALL, at):
        inside = arguments and at < len(text)  # an unescaped closing tag may be part of a value
        hint = r"; inside a value write <\/parameter>" if inside else ""
        raise FormatError(f"{_ARGUMENT}...> or {_END_CALL} expected{_near(text, at)}{hint}")
    return ToolCall(name, arguments), at + len(_END_CALL)


def _next_call(text: str, at: int) -> Span | None:
    """The first complete call."""
    while (start := text.find(_CALL, at)) >= 0:
        at = start + len(_CALL)
        with contextlib.suppress(FormatError):
            return start, _call(text, start)[1]
    return None


def _listing(tool: Tool) -> str:
    lines = [f"{tool.name}: {tool.description}"]
    for parameter in tool.parameters:
        kind = "" if parameter.required else ", optional"
        choices = f" ({', '.join(parameter.choices)})" if parameter.choices else ""
        lines.append(f"- {parameter.name}{kind}: {parameter.description}{choices}")
    return "\n".join(lines)


def _tag_name(text: str, at: int, tag: str) -> tuple[str, int]:
    """The name in the tag that begins before ``at``, and the position of the tag's end."""
    match = _NAME.match(text, at)
    if not match or not text.startswith(">", match.end()):
        raise FormatError(f"{tag} has no name and >{_near(text, at)}")
    return match[0], match.end() + 1


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _value(text: str) -> str:
    """``text`` without the newlines that separate a value of several lines from its tags."""
    return _ESCAPED.sub(r"<\1", text.removeprefix("\n").removesuffix("\n"))


def _near(text: str, at: int) -> str:
    return f", not {text[at : at + 20]!r}" if at < len(text) else " at the end"
