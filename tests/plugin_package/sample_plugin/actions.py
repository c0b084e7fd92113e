"""An action format: a command between <run> and </run>; the command finish ends the episode."""

from __future__ import annotations

import re

from swe_gym_env.actions.base import FormatError
from swe_gym_env.tools.schema import BASH, FINISH, Tool
from swe_gym_env.types import ToolCall

COMMAND = re.compile(r"<run>(.*?)</run>", re.DOTALL)


class RunTag:
    name = "run_tag"
    example = "<run>ls</run>"

    def __init__(self, tools: tuple[Tool, ...] = (BASH, FINISH)) -> None:
        self.tools = tools

    def describe(self) -> str:
        return "Each reply is one command: <run>COMMAND</run>. The last command is finish."

    def parse(self, text: str) -> ToolCall:
        found = COMMAND.findall(text)
        if len(found) != 1 or not found[0].strip():
            raise FormatError("give one command between <run> and </run>")
        if found[0].strip() == "finish":
            return ToolCall("finish")
        return ToolCall("bash", {"command": found[0]})

    def render(self, call: ToolCall) -> str:
        command = "finish" if call.name == "finish" else call.arguments.get("command", "")
        if not command.strip() or "</run>" in command:
            raise FormatError("this call cannot be written between <run> and </run>")
        return f"<run>{command}</run>"
