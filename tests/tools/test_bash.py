"""The bash tool on real sandboxes: what feels like one session, and what must never hang or
break."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools import BashTool, Toolbox, schema
from swe_gym_env.tools.bash import clip, readable
from swe_gym_env.types import ToolCall

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def bash(sandbox: Sandbox) -> Callable[..., BashTool]:
    return lambda **options: BashTool(sandbox, **options)


def test_folder_and_exports_carry_over(bash) -> None:
    tool = bash()
    start = tool.run("pwd")
    tool.run("mkdir -p 'a b' && cd 'a b' && export NAME='x y\n\"z\" é' OTHER=1; hidden=1")
    assert tool.run("pwd") == f"{start}/a b"
    assert tool.run('echo "$NAME|$OTHER|${hidden-unset}"') == 'x y\n"z" é|1|unset'
    assert tool.run("unset OTHER HOME; cd ..; exit 3") == "(exit code 3)"
    assert tool.run('echo "$NAME|${OTHER-unset}|${HOME-unset}"; pwd') == (
        f'x y\n"z" é|unset|unset\n{start}'
    )
    assert tool.run("cd - >/dev/null; pwd") == f"{start}/a b"


@pytest.mark.parametrize(
    ("command", "observation"),
    [
        ("true", "(no output)"),
        ("cat <<E\none $((1 + 1))\nE", "one 2"),
        ("cat <<'E'\n'$HOME' \\ `x`\nE", "'$HOME' \\ `x`"),
        ("echo 'it''s'; echo \"q\" # end", "its\nq"),
        ("echo out; echo err >&2; exit 7", "out\nerr\n(exit code 7)"),
        ("set -e; echo a; false; echo b", "a\n(exit code 1)"),
        (
            "set -u; echo $NO_SUCH_NAME",
            "bash: line 1: NO_SUCH_NAME: unbound variable\n(exit code 127)",
        ),
        ("\nnosuchcmd", "bash: line 2: nosuchcmd: command not found\n(exit code 127)"),
        ("for i in 1 2; do", "bash: line 2: syntax error: unexpected end of file\n(exit code 2)"),
        ("exec echo gone", "gone"),
        ("trap 'echo bye' EXIT", "bye"),
        ("kill -9 $$", "(exit code 137)"),
        ('read x; echo "read $?"', "read 1"),
        ("echo ok; mkdir gone; cd gone; rmdir ../gone", "ok"),
        ("echo ok", "ok"),
        ("printf 'a\\0b\\377\\n\\033[31mred\\033[0m\\r\\n'", "a\\x00b\\xff\nred"),
        ("echo a\0b \ud800", "ab ?"),
    ],
)
def test_observation_shows_what_a_command_did(bash, command: str, observation: str) -> None:
    assert bash().run(command) == observation


def test_output_that_is_sent_to_a_file_is_in_the_file(bash) -> None:
    tool = bash()
    assert tool.run("exec >file.txt; echo hidden") == "(no output)"
    assert tool.run("cat file.txt; rm file.txt") == "hidden"


def test_commands_in_a_row_survive_each_other(bash) -> None:
    tool = bash()
    start = tool.run("pwd")
    tool.run("export KEPT=yes; cd /")
    for command in ("if (", "set -eux; false", "kill -9 $$", "exec true", "exit 9", "export -p"):
        tool.run(command)
    assert tool.run("echo $KEPT; pwd") == "yes\n/"
    tool.run(f"cd '{start}'; mkdir gone; cd gone; rmdir ../gone")
    assert tool.run("echo still here") == "still here"


def test_a_command_over_its_time_is_killed_and_said_so(bash) -> None:
    tool = bash(timeout=0.7)
    began = time.monotonic()
    assert tool.run("echo before; sleep 30") == "before\n(killed: time limit of 0.7 s)"
    assert "time limit of 0.2 s" in tool.run("sleep 30", time_left=0.2)
    assert time.monotonic() - began < 10


def test_a_child_that_holds_stdout_does_not_hang_the_turn(bash) -> None:
    tool = bash(timeout=30)
    began = time.monotonic()
    assert tool.run("sleep 60 & echo started; cd /") == "started"
    assert time.monotonic() - began < 5
    assert tool.run("pwd") == "/"


def test_long_output_is_cut_in_the_middle_with_the_count(bash) -> None:
    observation = bash(output_limit=100).run("seq 1000; cd /; exit 5")
    head, tail = observation.split("\n[... 3792 characters cut ...]\n")
    assert head.startswith("1\n2\n3") and tail.endswith("1000\n(exit code 5)")
    tool = bash(output_limit=100)
    huge = tool.run("export MARK=kept; yes 0123456789 | head -c 5000000")
    assert len(huge) < 160 and "characters cut" in huge
    assert tool.run("echo $MARK") == "kept"


def test_a_command_or_a_state_too_large_is_an_observation(bash) -> None:
    tool = bash()
    assert "longer than" in tool.run("echo " + "x" * 70_000)
    assert tool.run("echo " + "x" * 50_000 + " | wc -c") == "50001"
    assert "not kept" in tool.run("export BIG=$(head -c 40000 /dev/zero | tr '\\0' x)")
    assert tool.run("echo ${#BIG}") == "0"


def test_clip_counts_what_the_sandbox_dropped_too() -> None:
    assert clip("", "abc\n\n", 0, 10) == "abc"
    assert clip("", "a" * 30, 0, 10) == "aaaaa\n[... 20 characters cut ...]\naaaaa"
    assert clip("h" * 20, "t" * 20, 1000, 10) == "hhhhh\n[... 1030 characters cut ...]\nttttt"


def test_any_bytes_are_readable() -> None:
    text = readable(bytes(range(256)) + "é\n".encode())
    assert text.endswith("é\n") and "\\x00" in text and "\\xff" in text
    assert all(char in "\n\t" or char.isprintable() for char in text)


def test_an_unknown_tool_is_an_observation(bash) -> None:
    tools = schema.offered(["bash", "finish"])
    toolbox = Toolbox(bash().sandbox, tools, timeout=5, output_limit=100)
    assert toolbox.run(ToolCall("bash", {"command": "echo hi"}), 10) == "hi"
    assert "no tool 'browse'" in toolbox.run(ToolCall("browse"), 10)
    assert "no tool 'str_replace_editor'" in toolbox.run(ToolCall("str_replace_editor"), 10)
