"""All text that the agent reads from us: system prompt, task prompt, observations.

Kept short on purpose, since every token of them is paid for on every turn. Any change here changes
what models were trained on, so ``tests/test_prompts.py`` holds the exact strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swe_gym_env.types import TaskInstance

if TYPE_CHECKING:  # the formats know the tools, and the tools speak in these words
    from swe_gym_env.actions.base import ActionFormat

FINISHED = "(finished)"
CUT = "\n[... "  # how the note on a cut begins
NOT_RUN = "Not run: "  # how the answer to a malformed turn begins
INFRA_FAULT = "(the sandbox failed; the episode is over)"


def system_prompt(action_format: ActionFormat) -> str:
    means = "shell commands"
    if any(tool.name == "str_replace_editor" for tool in action_format.tools):
        means += " and a file editor"
    return f"You fix bugs in a code repository with {means}. {action_format.describe()}"


def task_prompt(task: TaskInstance) -> str:
    problem = task.problem_statement.strip()
    return f"{problem}\n\nThe repository is in {task.workdir}. Fix it there, then finish."


def command_result(output: str, exit_code: int, timed_out_after: float | None = None) -> str:
    """What a command printed; the exit code only where it says something."""
    lines = [output] if output else []
    if timed_out_after is not None:
        lines.append(f"(killed: time limit of {timed_out_after:g} s)")
    elif exit_code:
        lines.append(f"(exit code {exit_code})")
    return "\n".join(lines) or "(no output)"


def cut(count: int) -> str:
    """What stands in the place of ``count`` characters that were left out."""
    return f"{CUT}{count} characters cut ...]\n"


def left_out(count: int) -> str:
    """What a history window shows in the place of an old observation of ``count`` characters."""
    return f"(output of an earlier command, {count} characters, left out)"


def format_mistake(problem: str, action_format: ActionFormat) -> str:
    return f"{NOT_RUN}{problem}. Reply like this:\n{action_format.example}"


def unknown_tool(name: str, known: list[str]) -> str:
    return f"(no tool {name[:40]!r}; there are: {', '.join(known)})"


def bad_arguments(name: str, problem: str) -> str:
    return f"(not run: {name}: {problem})"
