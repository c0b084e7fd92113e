"""Parse a test log into a status for each test. Parsers are named as in a row's ``log_parser``.

A parser returns only the tests that the log names. A test that is missing has not passed, unless
the parser is one of ``FAILURES_ONLY``; the caller decides that. Code of the agent may have written
into the log, so parsers accept only the form that a complete run has.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache

from swe_gym_env.errors import SetupError

START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
EXIT = ">>>>> Exit"
APPLY_FAILED = ">>>>> Patch Apply Failed"
# A log with one of these words, at any place, counts as unresolved (the rule of swebench) -> why
VOID = {
    APPLY_FAILED: "the patch does not apply",
    ">>>>> Reset Failed": "the hidden tests could not be put back",
    ">>>>> Tests Errored": "the tests could not be run",
    ">>>>> Tests Timed Out": "the tests took too long",
}
# Parsers of swebench that report only failures. For these alone a missing test counts as passed.
FAILURES_ONLY = frozenset(
    f"parse_log_{name}"
    for name in ("bpmn_js", "chart_js", "eslint", "marked", "openlayers", "p5js")
)

_SUMMARY = re.compile(r"=+ short test summary info =+")
# A folded line ("SKIPPED [2] t.py:5: why") names no test
_LINE = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS|SKIPPED) (?!\[\d+\] )(\S.*)")
# A subtest as pytest 9 prints it ("SUBFAILED[message] (i=1) t.py::test - why"), or pytest-subtests,
# which has the word before or after the description
_SUBTEST = re.compile(
    r"(?:\[.*?\] )?(?:\(.*?\) )?SUB(PASS|FAIL|SKIP|XFAIL|XPASS)(?:ED)?"
    r"(?:\[.*?\])?(?: ?\(.*?\))?,? (\S+::.*)"
)
_SUBTEST_STATUS = {"PASS": "PASSED", "FAIL": "FAILED", "SKIP": "SKIPPED"}
# The closing line. Plugins count further things; before pytest 5 it ended with "in 0.12 seconds".
_COUNTS = re.compile(r"(?:=+ )?(\d+ [^,]+?(?:, \d+ [^,]+?)*) in [\d.]+ ?s(?:econds)?\b.*")
_NOUNS = {"PASSED": "passed", "FAILED": "failed", "XFAIL": "xfailed", "XPASS": "xpassed"}
# If several lines are about one test, the first of these counts: a passed test may fail in teardown
_WORST = ("ERROR", "FAILED", "XPASS", "SKIPPED", "PASSED", "XFAIL")

_COLOR = re.compile(r"\x1b\[[0-9;:]*[A-Za-z]|\r")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|[uU]([0-9a-f]{8}|[0-9a-f]{4}))")

Parser = Callable[[str, Collection[str]], dict[str, str]]


def pytest_summary(log: str, wanted: Collection[str]) -> dict[str, str]:
    """Statuses from the ``-rA`` summary of a pytest run that came to its end.

    Only lines between the last summary header and the closing counts are read, and the numbers of
    passed, failed, xfailed and xpassed tests must agree with these counts. So output of a test, or
    a run that was cut short, is not taken for a result. A test with a failed subtest has failed.

    Args:
        log: Output of the test run.
        wanted: Ids of the tests that matter. They decide where an id ends that contains `` - ``.

    Returns:
        Status by test id; empty if there is no complete summary.
    """
    found: dict[str, str] = {}
    lines, subtests = Counter[str](), Counter[str]()
    for line in _closing(_COLOR.sub("", log).split("\n")):
        if match := _LINE.fullmatch(line):
            lines[match[1]] += 1
            _add(found, _name(match[2], wanted), match[1])
        elif match := _SUBTEST.fullmatch(line):
            status = _SUBTEST_STATUS.get(match[1], match[1])
            subtests[status] += 1
            if status == "FAILED":  # a subtest that passed says nothing about the whole test
                _add(found, _name(match[2], wanted), status)
        elif counts := _COUNTS.fullmatch(line.strip(" =")):
            pairs = (part.split(" ", 1) for part in counts[1].split(", "))
            numbers = {noun: int(number) for number, noun in pairs}
            # pytest counts a subtest as a test of its status, or under a separate noun
            agree = all(
                lines[status] <= numbers.get(noun, 0) <= lines[status] + subtests[status]
                for status, noun in _NOUNS.items()
            )
            if agree:  # otherwise the line is part of a message, which -vv prints in full
                return found
    return {}


def _closing(lines: Sequence[str]) -> Sequence[str]:
    """The lines after the last summary header."""
    headers = [number for number, line in enumerate(lines) if _SUMMARY.fullmatch(line.strip())]
    return lines[headers[-1] + 1 :] if headers else ()


def several(parse: Parser, runs: int) -> Parser:
    """A parser for the log of ``runs`` consecutive runs of pytest.

    Each of the last ``runs`` summaries is parsed separately. If a test ran in several, the last
    status counts. Other parsers than those of pytest are returned unchanged.
    """
    if runs < 2 or parse not in (pytest_summary, pytest_words):
        return parse

    def each(log: str, wanted: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in _runs(log)[-runs:]:
            found |= parse(part, wanted)
        return found

    return each


def _runs(log: str) -> list[str]:
    """The log in parts, with one summary header each."""
    lines = log.split("\n")
    headers = [n for n, line in enumerate(lines) if _SUMMARY.fullmatch(_plain(line))]
    ends = [*headers[1:], len(lines)]
    return ["\n".join(lines[start:end]) for start, end in zip(headers, ends, strict=True)]


def _plain(line: str) -> str:
    return _COLOR.sub("", line).strip()


def _name(rest: str, wanted: Collection[str]) -> str:
    """The id of the test in ``rest``, which continues with `` - `` and a reason if the test failed.

    An id may contain `` - `` too, so the longest one of ``wanted`` is taken.
    """
    parts = rest.split(" - ")
    for end in range(len(parts), 0, -1):
        if (name := " - ".join(parts[:end])) in wanted:
            return name
    return parts[0]


def pytest_words(log: str, wanted: Collection[str]) -> dict[str, str]:
    """As :func:`pytest_summary`, for ids that end at the first space and are not escaped.

    Rows of SWE-bench have such ids, since ``parse_log_pytest`` of swebench makes them. If several
    tests have the same id then, the worst status counts.
    """
    found: dict[str, str] = {}
    for name, status in pytest_summary(log, ()).items():
        word = name.split()[0]
        if word not in wanted:
            word = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), word).split()[0]
        _add(found, word, status)
    return found


def r2e_gym(log: str, wanted: Collection[str]) -> dict[str, str]:
    """Statuses by the ids of R2E-Gym: names without the file, joined by dots.

    Only tests that passed, failed or had an error appear. The id of a file that cannot be collected
    is empty.
    """
    found: dict[str, str] = {}
    for line in _closing(_COLOR.sub("", log).split("\n")):
        match = _LINE.fullmatch(line.strip())
        if match and match[1] in ("PASSED", "FAILED", "ERROR"):
            name = ".".join(match[2].split("::")[1:]).split(" - ")[0]
            found[name] = match[1]
    return found


def _add(found: dict[str, str], name: str, status: str) -> None:
    found[name] = min(found.get(name, status), status, key=_WORST.index)


PARSERS: dict[str, Parser] = {
    "pytest": pytest_summary,
    "pytest_words": pytest_words,
    "r2e_gym": r2e_gym,
}


@cache
def parser(name: str) -> Parser:
    """The parser of that name: one of this module, or one of swebench such as ``parse_log_django``.

    Raises SetupError if there is none.
    """
    if name in PARSERS:
        return PARSERS[name]
    try:
        from swebench.harness.log_parsers import PARSER_REGISTRY
    except ImportError:
        raise SetupError(
            f"unknown log parser {name!r}: ours are {', '.join(sorted(PARSERS))}; those of "
            "swebench need `pip install -e '.[swebench]'`"
        ) from None
    if name not in PARSER_REGISTRY:
        known = sorted({*PARSERS, *PARSER_REGISTRY})
        near = "".join(f" {one}?" for one in difflib.get_close_matches(name, known, 1))
        raise SetupError(f"unknown log parser {name!r}:{near} there are {', '.join(known)}")
    parse = PARSER_REGISTRY[name]
    return lambda log, wanted: dict(parse(_COLOR.sub("", log), None))


def test_output(log: str, word: str) -> str | None:
    """The output between the markers of an eval script; None if the run did not reach its end.

    If the script also prints the exit code of pytest, it must be 0 or 1 (all passed, some failed).

    Args:
        log: Output of the script.
        word: The nonce that was added to the markers.
    """
    _, start, rest = log.partition(f"{START} {word}")
    output, end, _ = rest.rpartition(f"{END} {word}")
    exited = re.findall(rf"^{re.escape(EXIT)} (\d+)$", output, re.MULTILINE)
    broke = bool(exited) and exited[-1] not in ("0", "1")
    return output if start and end and not broke else None
