"""From a test log to a status for each test. Parsers are named as in a row's ``log_parser``.

A test that the log does not name has not passed; the caller treats it so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from swe_gym_env.errors import SetupError

START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
EXIT = ">>>>> Exit"
APPLY_FAILED = ">>>>> Patch Apply Failed"
VOID = {  # words that make a log worthless wherever they stand, as for swebench
    APPLY_FAILED: "the patch does not apply",
    ">>>>> Reset Failed": "the hidden tests could not be put back",
    ">>>>> Tests Errored": "the tests could not be run",
    ">>>>> Tests Timed Out": "the tests took too long",
}
# Parsers of swebench that record failures only: there, and nowhere else, an absent test may pass
FAILURES_ONLY = frozenset(
    f"parse_log_{name}"
    for name in ("bpmn_js", "chart_js", "eslint", "marked", "openlayers", "p5js")
)

_SUMMARY = re.compile(r"=+ short test summary info =+")
_LINE = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S.*)")
_COUNTS = re.compile(r"(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s.*")
_NOUNS = {"PASSED": "passed", "FAILED": "failed", "XFAIL": "xfailed", "XPASS": "xpassed"}

_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\r")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|[uU]([0-9a-f]{8}|[0-9a-f]{4}))")

Parser = Callable[[str, Collection[str]], dict[str, str]]


def pytest_summary(log: str, wanted: Collection[str]) -> dict[str, str]:
    """Statuses from the ``-rA`` summary of a pytest run that came to its end.

    Only lines between the last summary header and the closing counts are read, and they must be as
    many as the counts say: what a test printed, or a run that was cut short, counts for nothing.
    """
    lines = log.splitlines()
    headers = [number for number, line in enumerate(lines) if _SUMMARY.fullmatch(line.strip())]
    if not headers:
        return {}
    found: dict[str, str] = {}
    seen: dict[str, int] = {}
    for line in lines[headers[-1] + 1 :]:
        if match := _LINE.fullmatch(line):
            status, rest = match.groups()
            seen[status] = seen.get(status, 0) + 1
            found[_name(rest, wanted)] = status
        elif counts := _COUNTS.fullmatch(line.strip(" =")):
            said = {noun: int(number) for number, noun in re.findall(r"(\d+) ([a-z]+)", counts[1])}
            agree = all(said.get(noun, 0) == seen.get(s, 0) for s, noun in _NOUNS.items())
            return found if agree else {}
    return {}


def _name(rest: str, wanted: Collection[str]) -> str:
    """The test's id: a failed one is followed by `` - `` and why, which an id may hold as well."""
    parts = rest.split(" - ")
    for end in range(len(parts), 0, -1):
        if (name := " - ".join(parts[:end])) in wanted:
            return name
    return parts[0]


def pytest_words(log: str, wanted: Collection[str]) -> dict[str, str]:
    """As :func:`pytest_summary`, for rows whose ids end at the first space and are not escaped, as
    swebench's ``parse_log_pytest`` leaves them. Of several tests with one id the worst counts."""
    found: dict[str, str] = {}
    for name, status in pytest_summary(_COLOUR.sub("", log), ()).items():
        word = name.split()[0]
        if word not in wanted:
            word = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), word).split()[0]
        _add(found, word, status)
    return found


def r2e_gym(log: str, wanted: Collection[str]) -> dict[str, str]:
    """Statuses as R2E-Gym's rows have them: ids without the file, joined by dots, of tests that
    passed, failed or broke. A file that cannot be collected has the empty id."""
    lines = [line.strip() for line in _COLOUR.sub("", log).splitlines()]
    headers = [number for number, line in enumerate(lines) if _SUMMARY.fullmatch(line)]
    found: dict[str, str] = {}
    for line in lines[headers[-1] + 1 :] if headers else ():
        match = _LINE.fullmatch(line)
        if match and match[1] in ("PASSED", "FAILED", "ERROR"):
            name = ".".join(match[2].split("::")[1:]).split(" - ")[0]
            found[name] = match[1]
    return found


def _add(found: dict[str, str], name: str, status: str) -> None:
    if found.get(name, "PASSED") in ("PASSED", "XFAIL"):
        found[name] = status


PARSERS: dict[str, Parser] = {
    "pytest": pytest_summary,
    "pytest_words": pytest_words,
    "r2e_gym": r2e_gym,
}


def parser(name: str) -> Parser:
    """Ours, or one of swebench's by its name there (``parse_log_django``, say)."""
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
        known = ", ".join(sorted({*PARSERS, *PARSER_REGISTRY}))
        raise SetupError(f"unknown log parser {name!r}: there are {known}")
    parse = PARSER_REGISTRY[name]
    return lambda log, wanted: dict(parse(log, None))


def test_output(log: str, word: str) -> str | None:
    """What stands between an eval script's markers; None where the run did not reach its end.

    Where the script also says how pytest exited, that must fit: 0 or 1, all well or some failed.
    """
    _, start, rest = log.partition(f"{START} {word}")
    output, end, _ = rest.rpartition(f"{END} {word}")
    exited = re.findall(rf"^{re.escape(EXIT)} (\d+)$", output, re.MULTILINE)
    broke = bool(exited) and exited[-1] not in ("0", "1")
    return output if start and end and not broke else None
