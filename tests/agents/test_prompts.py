"""Everything the agent is told, word for word: a change changes what models were trained on."""

from __future__ import annotations

from swe_gym_env.actions import action_format
from swe_gym_env.agents import prompts
from swe_gym_env.types import TaskInstance

FORM = action_format("bash_block")
TASK = TaskInstance(
    instance_id="toy-1",
    repo="toy",
    base_commit="",
    image="toy",
    problem_statement="add(1, 2) returns -1.\n",
    gold_patch="",
    test_patch="",
    fail_to_pass=(),
    pass_to_pass=(),
    eval_script="",
)


def test_system_prompt() -> None:
    assert prompts.system_prompt(FORM) == (
        "You fix bugs in a code repository with shell commands. Each reply: one short thought, "
        "then one command in a ```bash block. When the bug is fixed, the command is `finish`."
    )


def test_task_prompt() -> None:
    assert prompts.task_prompt(TASK) == (
        "add(1, 2) returns -1.\n\nThe repository is in /testbed. Fix it there, then finish."
    )


def test_command_results() -> None:
    assert prompts.command_result("", 0) == "(no output)"
    assert prompts.command_result("a\nb", 0) == "a\nb"
    assert prompts.command_result("a", 2) == "a\n(exit code 2)"
    assert prompts.command_result("", 1) == "(exit code 1)"
    assert prompts.command_result("a", 124, 30.0) == "a\n(killed: time limit of 30 s)"
    assert prompts.cut(12) == "\n[... 12 characters cut ...]\n"


def test_a_mistake_is_answered_with_what_was_wrong_and_an_example() -> None:
    assert prompts.format_mistake("no ```bash block", FORM) == (
        "Not run: no ```bash block. Reply like this:\n```bash\nls\n```"
    )


def test_endings() -> None:
    assert prompts.FINISHED == "(finished)"
    assert prompts.INFRA_FAULT == "(the sandbox failed; the episode is over)"
    assert prompts.unknown_tool("browse", ["bash", "finish"]) == (
        "(no tool 'browse'; there are: bash, finish)"
    )
