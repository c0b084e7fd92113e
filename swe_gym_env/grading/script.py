"""Prepare an eval script for a run whose log cannot be forged.

Eval scripts come from a data set or from this project, in the style of swebench: the output between
two markers is that of the test run. A random word (the nonce) is added to the markers, so that code
of the agent cannot print them. It is passed on standard input, because every process of the same
user can read a command line. The shell then ends with the exit code of the test command, which no
output can forge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from swe_gym_env.grading.parsers import END, EXIT, START

_ALONE = r"\s*(?::|echo)\s+(['\"]?){}\1\s*"
PROLOGUE = "IFS= read -r swe_gym_word; exec </dev/null\n"


def test_commands(script: str) -> list[str]:
    """The lines between the markers; all lines if there are no markers."""
    lines = script.split("\n")
    first, last = _region(lines)
    return lines[first + 1 : last]


def before_tests(script: str) -> str:
    """The part of a script before its tests; empty if there are no markers."""
    lines = script.split("\n")
    return "\n".join(lines[: max(_region(lines)[0], 0)])


def prepared(script: str, restored: str = "", exports: Sequence[str] = ()) -> str:
    """Add the nonce, commands before the tests, and the exit code to a script.

    Args:
        script: The eval script of a task.
        restored: Commands that come last before the output of the tests begins.
        exports: Lines that come before the tests.

    Returns:
        A script for use after :data:`PROLOGUE`, which reads the nonce from the first line of
        standard input. It exits with the exit code of the last command of the tests.
    """
    lines = script.split("\n")
    first, last = _region(lines)
    if first < 0:  # some task sets have no markers: then the whole output is that of the tests
        before, tests, after = [], ["(", *lines, ")"], []
    else:
        before, tests, after = lines[:first], lines[first + 1 : last], lines[last + 1 :]
        if not _alone(START, lines[first]):
            tests = [lines[first], *tests]
        if last < len(lines) and not _alone(END, lines[last]):
            tests = [*tests, lines[last]]
    # Some scripts print $? after their tests. The subshell sets $? again for such a line.
    end_of_tests = next((n for n, line in enumerate(tests) if EXIT in line), len(tests))
    save = "swe_gym_exit=$?; (exit $swe_gym_exit)"
    caught = [*tests[:end_of_tests], save, *tests[end_of_tests:]]
    start, end = (f'echo "{marker} $swe_gym_word"' for marker in (START, END))
    return "\n".join(
        [*before, restored, start, *exports, *caught, end, *after, "exit $swe_gym_exit", ""]
    )


def _region(lines: list[str]) -> tuple[int, int]:
    """Line numbers of the markers; -1 and the number of lines if they are missing.

    The last start marker counts, because a patch inside of the script may contain the words too.
    """
    starts = [number for number, line in enumerate(lines) if START in line]
    if not starts:
        return -1, len(lines)
    ends = [n for n, line in enumerate(lines) if n > starts[-1] and END in line]
    return starts[-1], ends[0] if ends else len(lines)


def _alone(marker: str, line: str) -> bool:
    return re.fullmatch(_ALONE.format(re.escape(marker)), line) is not None
