"""The working folder and the exports stay from turn to turn, whatever a command does to its shell;
and what keeps them prints nothing."""

from __future__ import annotations

import pytest

from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools import BashTool

pytestmark = pytest.mark.sandbox

# A command, and all that it prints
ODD = [
    ("trap 'echo bye' EXIT", "bye"),
    ("trap 'echo bye' EXIT; exit 3", "bye\n(exit code 3)"),
    ("trap 'echo bye $?' 0; set -e; (exit 4)", "bye 4\n(exit code 4)"),
    ("trap 'echo bye; exit 5' exit; exit 3", "bye\n(exit code 5)"),
    ("trap -- 'echo bye' EXIT USR1; kill -USR1 $$; trap - EXIT", "bye"),
    ("trap 'echo a' EXIT; trap -p EXIT; trap '' EXIT", "trap -- 'echo a' EXIT"),
    ("f() { trap 'echo bye' EXIT; }; f; echo body", "body\nbye"),
    ("command trap 'echo bye' EXIT", "bye"),
    ("(trap 'echo sub' EXIT; true); echo x", "sub\nx"),
    ("trap 'echo debug' DEBUG; true", "debug"),
    ("set -T; trap 'echo debug' DEBUG; true", "debug"),
    ("trap 'echo failed' ERR; false", "failed\n(exit code 1)"),
    ("f() { return 2; }; trap 'echo ret' RETURN; f", "(exit code 2)"),
    ("exec echo gone", "gone"),
    ("exec >/dev/null; echo hidden", "(no output)"),
    ("exec 2>&1; echo error >&2", "error"),
    ("kill -9 $$", "(exit code 137)"),
    ("set -n; echo no", "(no output)"),
    ("exit 3", "(exit code 3)"),
    ("set -u; echo $nope", "bash: line 2: nope: unbound variable\n(exit code 127)"),
    ("set -x; true", "++ true"),
    ("set -v; true", "(no output)"),
    ("BASH_XTRACEFD=1; set -x; true", "++ true"),
    ("PS4='$(echo trace >&2)'; set -x; true", "trace\ntrue"),
    ("set -a; X=1", "(no output)"),
    ("set -o posix; false", "(exit code 1)"),
    ("export POSIXLY_CORRECT=1", "(no output)"),
    ("export UID", "(no output)"),
    ("export EUID PPID BASHOPTS SHELLOPTS BASH_VERSINFO", "(no output)"),
    ("readonly PWD OLDPWD", "(no output)"),
    ("declare -r FIXED=1; export FIXED", "(no output)"),
    ("PWD=/nowhere", "(no output)"),
    ("unset PWD OLDPWD", "(no output)"),
    ("unset PATH", "(no output)"),
    ("IFS=/; export IFS", "(no output)"),
    ("export CDPATH=/", "(no output)"),
    ("enable -n export printf pwd cd echo", "(no output)"),
    ("shopt -s extglob nullglob failglob; set -f; set -k", "(no output)"),
    ("umask 077; ulimit -n 20", "(no output)"),
    ("PROMPT_COMMAND='echo prompt'; alias cd='echo no'", "(no output)"),
    ("export BASH_ENV=/tmp/env.sh; echo 'echo read' > /tmp/env.sh", "(no output)"),
    ("sleep 30 & echo started", "started"),
    ("if true; then", "bash: line 3: syntax error: unexpected end of file\n(exit code 2)"),
    ("export LC_ALL=C", "(no output)"),
]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("command", "observation"), ODD, ids=[command for command, _ in ODD])
def test_the_state_is_kept_and_nothing_else_is_printed(
    sandbox: Sandbox, command: str, observation: str
) -> None:
    tool = BashTool(sandbox)
    place = "/tmp/a place"
    assert (
        tool.run(f"mkdir -p '{place}'; cd '{place}'; export MINE='my var'\n{command}")
        == observation
    )
    assert tool.run('echo "$MINE"; /bin/pwd') == f"my var\n{place}"
    assert tool.run("cd /; export MINE=2") == "(no output)"
    assert tool.run('echo "$MINE"; /bin/pwd; echo "$OLDPWD"') == f"2\n/\n{place}"


def test_a_text_that_ends_in_no_newline_stays_open(sandbox: Sandbox) -> None:
    tool = BashTool(sandbox)
    observation = tool.run("cd /; export MINE=1; cat <<END\nfoo")
    assert observation.endswith("foo") and "here-document" in observation
    assert tool.run("echo $MINE; pwd") == "1\n/"


def test_any_value_and_any_folder_come_back(sandbox: Sandbox) -> None:
    tool = BashTool(sandbox)
    tool.run(
        "export W=$'a\\nb\"c\\'d$e`f`\\\\' BYTES=$'\\377\\xfe' EMPTY=\n"
        "export FAKE=$'\\ndeclare -x UID=\"7\"'\n"
        "mkdir -p $'/tmp/we\\nird \\'q'; cd $'/tmp/we\\nird \\'q'"
    )
    tool.run("true")  # restored and kept once more
    assert tool.run('printf %s "$W"') == "a\nb\"c'd$e`f`\\"
    assert tool.run('printf %s "$BYTES" | od -An -tx1') == " ff fe"
    assert tool.run('echo "${EMPTY-unset}|$FAKE"') == '|\ndeclare -x UID="7"'
    assert tool.run("/bin/pwd") == "/tmp/we\nird 'q"


def test_exported_functions_and_attributes_stay(sandbox: Sandbox) -> None:
    tool = BashTool(sandbox)
    tool.run('greet() { echo "hello $1"; }; export -f greet; export UID; declare -rx FIXED=1')
    tool.run("export -n HOME; set -a; LATER=2")
    assert tool.run("greet you; bash -c 'greet child'") == "hello you\nhello child"
    assert tool.run("env | grep -c ^UID=; echo $FIXED $LATER") == "1\n1 2"
    assert tool.run("FIXED=3; true").startswith("bash: line 1: FIXED: readonly variable")
    assert "HOME=" not in tool.run("env") and "__swe" not in tool.run("env")
    tool.run("unset -f greet; export HOME=/tmp")
    assert "command not found" in tool.run("greet you")
    assert tool.run("echo ~") == "/tmp"


def test_windows_line_ends_do_not_reach_bash(sandbox: Sandbox) -> None:
    tool = BashTool(sandbox)
    assert tool.run("echo one\r\necho two\r\n") == "one\ntwo"
    assert tool.run("cat <<'E'\r\ntext\r\nE\r") == "text"
