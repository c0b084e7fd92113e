"""The tools and their parameters: one table for prompts, validation and typed rendering.

Arguments are passed as text (``ToolCall.arguments``), because XML and bash turns have no other
type. This module converts them. A wrong argument is an ArgumentError, which the agent sees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swe_gym_env.errors import SetupError, SWEGymError

_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")


class ArgumentError(SWEGymError):
    """The tool does not accept the arguments of a call. The agent sees the message."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool.

    Attributes:
        name: Its name.
        description: What the system prompt says about it.
        type: ``lines`` is a pair of line numbers, written ``[FIRST, LAST]``.
        required: Whether each call must have it.
        choices: The allowed values; empty if all are allowed.
    """

    name: str
    description: str
    type: Literal["string", "integer", "lines"] = "string"
    required: bool = False
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        """Convert ``text`` to a value. Raises ArgumentError."""
        if self.choices and text.strip() not in self.choices:
            known = ", ".join(self.choices)
            raise ArgumentError(f"{self.name} is {text.strip()[:40]!r}; there are: {known}")
        if self.choices:
            return text.strip()
        if self.type == "string":
            return text
        if self.type == "integer":
            if not _INTEGER.fullmatch(text.strip()):
                raise ArgumentError(f"{self.name} is {text.strip()[:40]!r}, not a whole number")
            return int(text)
        parts = text.strip().removeprefix("[").removesuffix("]").split(",", 2)
        if len(parts) != 2 or not all(_INTEGER.fullmatch(part.strip()) for part in parts):
            raise ArgumentError(f"{self.name} is {text.strip()[:40]!r}, not [FIRST, LAST]")
        return [int(part) for part in parts]

    def json_schema(self) -> dict[str, Any]:
        kind: dict[str, Any] = {"type": self.type}
        if self.type == "lines":
            kind = {"type": "array", "items": {"type": "integer"}}
        if self.choices:
            kind["enum"] = list(self.choices)
        return {**kind, "description": self.description}


@dataclass(frozen=True)
class Tool:
    """One tool as it is described to the agent.

    Attributes:
        name: Its name.
        description: What the system prompt says about it.
        parameters: Its parameters.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()

    def read(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Convert the arguments of a call to values. Raises ArgumentError."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in arguments:
            if name not in known:
                raise ArgumentError(f"no argument {name[:40]!r}; there are: {', '.join(known)}")
        for parameter in self.parameters:
            if parameter.required and parameter.name not in arguments:
                raise ArgumentError(f"{parameter.name} is missing")
        return {name: known[name].read(text) for name, text in arguments.items()}

    def json_values(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """The arguments as values for JSON: a number only if its text is exactly that number."""
        known = {parameter.name: parameter for parameter in self.parameters}
        values: dict[str, Any] = {}
        for name, text in arguments.items():
            values[name] = text
            if name in known:
                try:
                    value = known[name].read(text)
                except ArgumentError:
                    continue
                if json.dumps(value) == text:
                    values[name] = value
        return values

    def json_schema(self) -> dict[str, Any]:
        """The tool as an entry of ``tools`` in OpenAI's API and Qwen's chat template."""
        parameters = {
            "type": "object",
            "properties": {p.name: p.json_schema() for p in self.parameters},
            "required": [p.name for p in self.parameters if p.required],
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


BASH = Tool(
    "bash",
    "Run a shell command. Working folder and exports stay from call to call.",
    (Parameter("command", "what to run", required=True),),
)
EDITOR = Tool(
    "str_replace_editor",
    "View and edit text files.",
    (
        Parameter(
            "command",
            "undo_edit takes back the last edit of path",
            required=True,
            choices=("view", "create", "str_replace", "insert", "undo_edit"),
        ),
        Parameter("path", "absolute path; a folder can be viewed too", required=True),
        Parameter("view_range", "for view: [FIRST, LAST], -1 for the last line", "lines"),
        Parameter("file_text", "for create: the content of the new file"),
        Parameter("old_str", "for str_replace: text that stands exactly once in the file"),
        Parameter("new_str", "for str_replace: what to put there; for insert: the new lines"),
        Parameter("insert_line", "for insert: the line to insert after, 0 for the top", "integer"),
    ),
)
FINISH = Tool("finish", "End the episode when the bug is fixed.")
ALL = (BASH, EDITOR, FINISH)
TOOLS = {tool.name: tool for tool in ALL}


def offered(names: Sequence[str]) -> tuple[Tool, ...]:
    """The tools with these names. Raises SetupError with the existing names if one is unknown."""
    unknown = [name for name in names if name not in TOOLS]
    if unknown or FINISH.name not in names:
        raise SetupError(f"tools={list(names)}: of {', '.join(TOOLS)}, finish always among them")
    return tuple(TOOLS[name] for name in names)
