"""The format of fenced bash blocks: some reasoning, then one ```bash block with the command.

It is the shortest format that small models get right: no JSON, no escaping. A command that contains
a fence is put between longer fences, as in Markdown. The format can express the tools bash and
finish, and no others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from swe_gym_env.actions.base import FormatError
from swe_gym_env.actions.speech import Span, escaped, spoken, unescaped
from swe_gym_env.errors import SetupError
from swe_gym_env.tools.schema import BASH, FINISH, Tool
from swe_gym_env.types import ToolCall

_FENCE = re.compile(r"(`{3,})([^`]*)")
_LANGUAGES = {"bash", "sh", "shell"}
_FINISH = FINISH.name


@dataclass
class _Block:
    fence: str
    language: str
    before: int  # number of lines before the opening fence
    body: list[str] = field(default_factory=list)


class BashBlock:
    """Each block is ``ToolCall("bash", {"command": ...})``; the command finish ends the episode."""

    name = "bash_block"
    example = "```bash\nls\n```"

    def __init__(self, tools: tuple[Tool, ...] = (BASH, FINISH)) -> None:
        if set(tools) != {BASH, FINISH}:
            raise SetupError(
                "actions=bash_block can say bash and finish and no other tool, so it offers just "
                "those: leave tools out, or take actions=hermes_json, xml or openai_tools"
            )
        self.tools = tools

    def describe(self) -> str:
        return (
            "Each reply: one short thought, then one command in a ```bash block. "
            "When the bug is fixed, the command is `finish`."
        )

    def parse(self, text: str) -> ToolCall:
        lines = spoken(text, _no_other_call).split("\n")
        found = [block for block in _blocks(lines) if block.language in _LANGUAGES]
        if len(found) != 1:
            raise FormatError("no ```bash block" if not found else "more than one ```bash block")
        command = "\n".join(found[0].body)
        reasoning = unescaped("\n".join(lines[: found[0].before]).strip())
        if not command.strip():
            raise FormatError("the ```bash block is empty")
        if command.strip() == _FINISH:
            return ToolCall("finish", reasoning=reasoning)
        return ToolCall("bash", {"command": command}, reasoning)

    def render(self, call: ToolCall) -> str:
        if call.name == "finish":
            command = _FINISH
        elif call.name == "bash" and call.arguments.get("command", "").strip():
            command = call.arguments["command"]
        else:
            given = ", ".join(call.arguments)[:80] or "no arguments"
            raise FormatError(
                f"a bash block cannot say {call.name[:40]} with {given}, only bash and finish"
            )
        longest = max((len(run) for run in re.findall(r"`{3,}", command)), default=2)
        fence = "`" * (longest + 1)
        # A fence in the reasoning would be parsed as the command
        reasoning = escaped(call.reasoning.strip().replace("```", "'''"))
        return f"{reasoning}\n{fence}bash\n{command}\n{fence}".lstrip("\n")


def _no_other_call(text: str, at: int) -> Span | None:
    """In this format a call is a fenced block, and :func:`spoken` finds those without help."""
    return None


def _blocks(lines: list[str]) -> list[_Block]:
    """All fenced blocks of any language. Raises FormatError if the last one is not closed."""
    blocks: list[_Block] = []
    current: _Block | None = None
    for index, line in enumerate(lines):
        bare = line.strip(" \t\r\ufeff")
        if current is not None:
            if set(bare) == {"`"} and len(bare) >= len(current.fence):
                blocks.append(current)
                current = None
            else:
                current.body.append(line)
        elif match := _FENCE.fullmatch(bare):
            language = (match[2].split() or [""])[0]
            current = _Block(match[1], language.lower(), index)
    if current is not None:
        raise FormatError(f"the ```{current.language[:12]} block is not closed")
    return blocks
