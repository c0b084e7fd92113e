"""What a ToolCall does in a sandbox."""

from __future__ import annotations

from swe_gym_env.agents import prompts
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools.bash import BashTool
from swe_gym_env.types import ToolCall

__all__ = ["FINISH", "BashTool", "Toolbox"]

FINISH = "finish"  # ends the episode; there is nothing to run


class Toolbox:
    """The tools of one episode, all on one box."""

    def __init__(self, sandbox: Sandbox, *, timeout: float, output_limit: int) -> None:
        self.bash = BashTool(sandbox, timeout, output_limit)

    def run(self, call: ToolCall, time_left: float) -> str:
        """The observation of any call but ``finish``. Raises SandboxError if the box is gone."""
        if call.name == "bash":
            return self.bash.run(call.arguments.get("command", ""), time_left)
        return prompts.unknown_tool(call.name, ["bash", FINISH])
