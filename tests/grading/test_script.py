"""Eval scripts as they are run, in a real shell: the markers, and whose exit code comes out."""

from __future__ import annotations

import subprocess

import pytest

from swe_gym_env.grading import parsers, script
from swe_gym_env.grading.recorder import recorder

MARKED = "set -uxo pipefail\necho before\n: '{0}'\n{test}\n: '{1}'\ngit status >/dev/null\n"


def run(text: str, word: str = "w0rd") -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", script.PROLOGUE + script.prepared(text)],
        input=f"{word}\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", [0, 1, 3])
@pytest.mark.parametrize("end", [f": '{parsers.END}'", f'echo "{parsers.EXIT} $?"\necho x'])
def test_the_exit_code_is_the_tests(code: int, end: str) -> None:
    text = MARKED.format(parsers.START, parsers.END, test=f"echo tested; (exit {code})")
    if parsers.EXIT in end:
        text = text.replace(f": '{parsers.END}'", f"{end}\n: '{parsers.END}'")
    exit_code, log = run(text)
    assert exit_code == code
    if parsers.EXIT in end:
        assert f"{parsers.EXIT} {code}\n" in log
    if code < 2 or parsers.EXIT not in end:
        output = parsers.test_output(log, "w0rd")
        assert output is not None and "tested\n" in output and "before" not in output


def test_a_script_without_markers_is_all_output_even_if_it_exits() -> None:
    exit_code, log = run("echo tested\nexit 1\n")
    assert exit_code == 1
    assert (parsers.test_output(log, "w0rd") or "").strip().startswith("tested")


def test_tests_read_nothing_and_do_not_see_the_word() -> None:
    test = "cat; env; tr '\\0' '\\n' < /proc/self/environ; tr '\\0' '\\n' < /proc/$$/cmdline"
    _, log = run(f"echo '{parsers.START}'\n{test}\necho '{parsers.END}'\n")
    output = parsers.test_output(log, "w0rd")
    assert output is not None and "PATH=" in output and "w0rd" not in output


@pytest.mark.parametrize(
    ("command", "reached"),
    [
        ("pytest -rA tests", True),
        ("python -m pytest tests 2>&1", True),
        ("/opt/env/bin/pytest x", True),
        ("./tests/runtests.py --verbosity 2", False),
        ("bin/test -C --verbose", False),
        ("tox --current-env -epy39 -v -- pytest", False),
        ("PYTHONPATH=src pytest tests", False),
        ("python -I -m pytest", False),
        ("cat pytest.ini", False),
    ],
)
def test_test_recorder_is_used_where_it_can_be_loaded(command: str, reached: bool) -> None:
    assert (recorder([command], "/x") is not None) is reached
