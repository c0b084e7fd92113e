"""Run tool calls in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from swe_gym_env import prompts
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools import schema
from swe_gym_env.tools.bash import BashTool
from swe_gym_env.tools.editor import Editor
from swe_gym_env.types import ToolCall

__all__ = ["FINISH", "BashTool", "Editor", "Toolbox"]

FINISH = schema.FINISH.name  # this tool ends the episode and runs nothing


class Toolbox:
    """The tools of one episode, which share one sandbox.

    Args:
        sandbox: Where they run.
        tools: The tools that are offered to the agent.
        timeout: Seconds that one command may take.
        output_limit: Characters of an observation.
    """

    def __init__(
        self, sandbox: Sandbox, tools: Sequence[schema.Tool], timeout: float, output_limit: int
    ) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.bash = BashTool(sandbox, timeout, output_limit)
        self.editor = Editor(sandbox, output_limit)

    def run(self, call: ToolCall, time_left: float) -> str:
        """Run a call other than ``finish``.

        Args:
            call: The call. An unknown tool and wrong arguments are answered with an observation.
            time_left: Seconds of the episode that are left for it.

        Returns:
            The observation.

        Raises:
            SandboxError: The sandbox has ended.
        """
        if call.name not in self.tools:
            return prompts.unknown_tool(call.name, list(self.tools))
        try:
            arguments = self.tools[call.name].read(call.arguments)
        except schema.ArgumentError as error:
            return prompts.bad_arguments(call.name, str(error))
        if call.name == schema.BASH.name:
            return self.bash.run(arguments["command"], time_left)
        return self.editor.run(arguments, time_left)
