"""What a ToolCall does in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from swe_gym_env import prompts
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools import schema
from swe_gym_env.tools.bash import BashTool
from swe_gym_env.tools.editor import Editor
from swe_gym_env.types import ToolCall

__all__ = ["FINISH", "BashTool", "Editor", "Toolbox"]

FINISH = schema.FINISH.name  # ends the episode; there is nothing to run


class Toolbox:
    """The tools of one episode, all on one sandbox."""

    def __init__(
        self, sandbox: Sandbox, tools: Sequence[schema.Tool], timeout: float, output_limit: int
    ) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.bash = BashTool(sandbox, timeout, output_limit)
        self.editor = Editor(sandbox, output_limit)

    def run(self, call: ToolCall, time_left: float) -> str:
        """The observation of any call but ``finish``. Raises SandboxError if the sandbox is
        gone."""
        if call.name not in self.tools:
            return prompts.unknown_tool(call.name, list(self.tools))
        try:
            arguments = self.tools[call.name].read(call.arguments)
        except schema.ArgumentError as error:
            return prompts.bad_arguments(call.name, str(error))
        if call.name == schema.BASH.name:
            return self.bash.run(arguments["command"], time_left)
        return self.editor.run(arguments, time_left)
