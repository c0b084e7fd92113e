"""The test recorder: a second channel beside the log, which any code in the run can write to.

This is the grader's side; ``plugin.py`` is the side in the sandbox. A record says which outcome
each test had and proves, by a nonce, that pytest came to its end. A canary, which is a test that
must fail, exposes a test framework that was changed so that everything passes. The verdict compares
the record with the log (:func:`contradiction`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_gym_env.grading.parsers import Parser

_PYTEST = re.compile(r"(?:^|[\s;&|/(])(?:pytest|py\.test)(?=\s|$)")
# Commands in which the plugin would not be found, or would change which tests run
_OUT_OF_REACH = re.compile(
    r"\b(?:tox|nox)\b|\benv\s+-i|\bpython[\d.]*\s+-[A-Za-z]*[IE]|\b(?:PYTHONPATH|PYTEST_ADDOPTS)="
)
_KEPT = {"PASSED", "XFAIL"}


@dataclass(frozen=True)
class TestRecorder:
    """The random names of one run.

    Attributes:
        module: Name under which pytest imports the plugin.
        folder: Absolute folder of the plugin in the sandbox.
        record: Absolute path of the record in the sandbox.
        nonce: Secret in each line of the record.
        canary: Name of the test that must fail.
        once: Whether the plugin is imported only once, so that it may delete itself.
        hidden: Files that must not change during the run, relative to the repository.
    """

    module: str
    folder: str
    record: str
    nonce: str
    canary: str
    once: bool
    hidden: tuple[str, ...] = ()

    def source(self) -> bytes:
        """The plugin with the values of this run."""
        text = Path(__file__).with_name("plugin.py").read_text()
        # Only the name: the plugin writes it beside its folder, whose path may be another inside
        record = self.record.rpartition("/")[2]
        values = {"NONCE": self.nonce, "RECORD": record, "CANARY": self.canary}
        values |= {"MODULE": self.module}
        lines = [f"{name} = {value!r}\n" for name, value in values.items()]
        lines += [f"ONCE = {self.once}\n", f"HIDDEN = {list(self.hidden)!r}\n"]
        lines += ["sources = {os.path.abspath(p): _read(p) for p in HIDDEN}\n"]
        return (text + "\n\n" + "".join(lines)).encode("utf-8", "backslashreplace")

    def exports(self) -> list[str]:
        """Lines of a shell script that load the plugin into the next run of pytest."""
        return [
            f'export PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{self.folder}"',
            f'export PYTEST_ADDOPTS="${{PYTEST_ADDOPTS:+$PYTEST_ADDOPTS }}-p {self.module}"',
        ]

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """The records in the file, one for each run of pytest; other lines are skipped."""
        records = []
        for line in data.decode("utf-8", "replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.pop("nonce", None) == self.nonce:
                records.append(record)
        return records


def recorder(
    commands: Sequence[str], folder: str, hidden: Sequence[str] = ()
) -> TestRecorder | None:
    """Draw the names of a test recorder.

    Args:
        commands: Lines of the test run.
        folder: Absolute folder in the sandbox below which it may write.
        hidden: Files that the run must not change.

    Returns:
        The recorder, or None if the plugin cannot be loaded because pytest is not called directly.
    """
    runs = sum(len(_PYTEST.findall(line)) for line in commands)
    if not runs or any(_OUT_OF_REACH.search(line) for line in commands):
        return None
    module, name = (f"w{secrets.token_hex(6)}" for _ in range(2))
    once = runs == 1 and not any(re.search(r"\s(-n|--numprocesses|--dist)", c) for c in commands)
    return TestRecorder(
        module=module,
        folder=f"{folder}/{module}",
        record=f"{folder}/{name}",
        nonce=secrets.token_hex(16),
        canary=f"test_{secrets.token_hex(6)}",
        once=once,
        hidden=tuple(sorted(hidden)),
    )


def recorded(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Status of each test, as in pytest's summary. Of several runs, the last one counts."""
    found: dict[str, str] = {}
    for record in records:
        for test, when, outcome, xfail in record["reports"]:
            if outcome == "failed":
                found[test] = "FAILED" if when == "call" else "ERROR"
            elif outcome == "skipped":
                found[test] = "XFAIL" if xfail else "SKIPPED"
            elif outcome == "passed" and when == "call":
                found[test] = "XPASS" if xfail else "PASSED"
    return found


def begins(test: str, found: Iterable[str]) -> list[str]:
    """The tests whose ids begin with ``test``, if that id is cut off within its parameters.

    Some rows of SWE-bench contain such ids. Empty for a complete id.
    """
    cut = test.count("[") > test.count("]")
    return [name for name in found if name.startswith(test)] if cut else []


def contradiction(
    records: Sequence[Mapping[str, Any]], canary: str, passed: Sequence[str], parse: Parser
) -> str:
    """Why the log cannot be trusted; empty if the records confirm it.

    Args:
        records: The records of the run, one for each call of pytest.
        canary: Name of the test that must fail.
        passed: Ids of the tests that have passed by the log.
        parse: The parser of the log; the records are converted to a log for it, since some parsers
            shorten ids.
    """
    if not records:
        return "the log says that all passed, but the test framework never reported its end"
    if changed := [name for record in records for name in record["changed"]]:
        return f"{changed[0]} was changed while the tests ran"
    found = recorded(records)
    ours = [status for test, status in found.items() if test.endswith(f"::{canary}")]
    if any(status not in ("FAILED", "ERROR") for status in ours):
        return "a test that must fail was reported as passed: the test framework was changed"
    made = [record["canary"] for record in records]
    if not ours and not all(state == "none" or state.startswith("error") for state in made):
        return "a test that must fail was not run: the test framework was changed"
    shown = {name: text for record in records for name, text in record["shown"].items()}
    lines = [f"{s} {shown.get(test, test)}" for test, s in found.items() if s in _KEPT]
    counts = {"passed": 0, "xfailed": 0}
    for line in lines:
        counts["xfailed" if line.startswith("XFAIL") else "passed"] += 1
    closing = ", ".join(f"{n} {noun}" for noun, n in counts.items() if n) or "0 passed"
    text = "\n".join(["=== short test summary info ===", *lines, f"=== {closing} in 0.01s ==="])
    kept = parse(text + "\n", frozenset(passed))
    wrong = [test for test in passed if test not in kept and not begins(test, kept)]
    if wrong:
        return f"the log says that {wrong[0]} passed, the test framework does not"
    return ""
