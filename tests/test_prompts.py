"""Everything the agent reads, word for word: a change changes what models were trained on."""

from __future__ import annotations

import pytest

from swe_gym_env import prompts
from swe_gym_env.actions import FormatError, action_format
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


JSON_TOOLS = """\
{"type": "function", "function": {"name": "bash", "description": "Run a shell command. \
Working folder and exports stay from call to call.", "parameters": {"type": "object", \
"properties": {"command": {"type": "string", "description": "what to run"}}, \
"required": ["command"]}}}
{"type": "function", "function": {"name": "str_replace_editor", "description": \
"View and edit text files.", "parameters": {"type": "object", "properties": {\
"command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "undo_edit"], \
"description": "undo_edit takes back the last edit of path"}, \
"path": {"type": "string", "description": "absolute path; a folder can be viewed too"}, \
"view_range": {"type": "array", "items": {"type": "integer"}, \
"description": "for view: [FIRST, LAST], -1 for the last line"}, \
"file_text": {"type": "string", "description": "for create: the content of the new file"}, \
"old_str": {"type": "string", \
"description": "for str_replace: text that stands exactly once in the file"}, \
"new_str": {"type": "string", \
"description": "for str_replace: what to put there; for insert: the new lines"}, \
"insert_line": {"type": "integer", \
"description": "for insert: the line to insert after, 0 for the top"}}, \
"required": ["command", "path"]}}}
{"type": "function", "function": {"name": "finish", "description": \
"End the episode when the bug is fixed.", "parameters": {"type": "object", "properties": {}, \
"required": []}}}
"""
HERMES = f"""\
You fix bugs in a code repository with shell commands and a file editor. These are the tools:
<tools>
{JSON_TOOLS}</tools>
Each reply: one short thought, then one call as JSON:
<tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>"""
OPENAI = f"""\
You fix bugs in a code repository with shell commands and a file editor. These are the tools:
{JSON_TOOLS}\
Each reply is one JSON object, a short thought and one call with its arguments as a JSON string:
{{"content": THOUGHT, "tool_calls": [{{"type": "function", "function": \
{{"name": NAME, "arguments": "{{...}}"}}}}]}}"""
XML = """\
You fix bugs in a code repository with shell commands and a file editor. These are the tools:
bash: Run a shell command. Working folder and exports stay from call to call.
- command: what to run
str_replace_editor: View and edit text files.
- command: undo_edit takes back the last edit of path (view, create, str_replace, insert, undo_edit)
- path: absolute path; a folder can be viewed too
- view_range, optional: for view: [FIRST, LAST], -1 for the last line
- file_text, optional: for create: the content of the new file
- old_str, optional: for str_replace: text that stands exactly once in the file
- new_str, optional: for str_replace: what to put there; for insert: the new lines
- insert_line, optional: for insert: the line to insert after, 0 for the top
finish: End the episode when the bug is fixed.
Each reply: one short thought, then one call:
<function=NAME>
<parameter=ARGUMENT>
value
</parameter>
</function>"""


@pytest.mark.parametrize(
    ("name", "prompt"), [("hermes_json", HERMES), ("openai_tools", OPENAI), ("xml", XML)]
)
def test_system_prompts_with_tools(name: str, prompt: str) -> None:
    assert prompts.system_prompt(action_format(name)) == prompt
    without = prompts.system_prompt(action_format(name, ["bash", "finish"]))
    assert "with shell commands. These are" in without and "editor" not in without


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        (
            "hermes_json",
            "Not run: no <tool_call>. Reply like this:\n<tool_call>\n"
            '{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>',
        ),
        (
            "openai_tools",
            "Not run: bad JSON: expecting value at 'ls'. Reply like this:\n"
            '{"tool_calls": [{"type": "function", "function": '
            '{"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}}]}',
        ),
        (
            "xml",
            "Not run: no <function=NAME>. Reply like this:\n"
            "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>",
        ),
    ],
)
def test_each_format_answers_a_mistake(name: str, mistake: str) -> None:
    form = action_format(name)
    with pytest.raises(FormatError) as error:
        form.parse("ls")
    assert prompts.format_mistake(str(error.value), form) == mistake


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
    assert prompts.bad_arguments("bash", "command is missing") == (
        "(not run: bash: command is missing)"
    )
