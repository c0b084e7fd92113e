"""The second channel: what pytest itself reported, beside the log that any code can write to.

The grader's side of ``plugin.py``. A record says which tests had which outcome and that the run
came to its end; a canary, a test that must fail, shows a framework that was rewritten wholesale.
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
# Runs in which the plugin would not be found, or would change what is run
_OUT_OF_REACH = re.compile(
    r"\b(?:tox|nox)\b|\benv\s+-i|\bpython[\d.]*\s+-[A-Za-z]*[IE]|\b(?:PYTHONPATH|PYTEST_ADDOPTS)="
)
_KEPT = {"PASSED", "XFAIL"}


@dataclass(frozen=True)
class TestRecorder:
    """Names drawn for one run. ``folder`` and ``record`` are paths in the sandbox."""

    module: str
    folder: str
    record: str
    nonce: str
    canary: str
    once: bool
    hidden: tuple[str, ...] = ()

    def source(self) -> bytes:
        text = Path(__file__).with_name("plugin.py").read_text()
        record = self.record.rpartition("/")[2]  # beside the folder, wherever the sandbox has that
        values = {"NONCE": self.nonce, "RECORD": record, "CANARY": self.canary}
        values |= {"MODULE": self.module}
        lines = [f"{name} = {value!r}\n" for name, value in values.items()]
        lines += [f"ONCE = {self.once}\n", f"HIDDEN = {list(self.hidden)!r}\n"]
        lines += ["sources = {os.path.abspath(p): _read(p) for p in HIDDEN}\n"]
        return (text + "\n\n" + "".join(lines)).encode("utf-8", "backslashreplace")

    def exports(self) -> list[str]:
        """Lines of the script that load the plugin into the next pytest."""
        return [
            f'export PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{self.folder}"',
            f'export PYTEST_ADDOPTS="${{PYTEST_ADDOPTS:+$PYTEST_ADDOPTS }}-p {self.module}"',
        ]

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """The records in the file, one for each run of pytest. A line without our nonce is none."""
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
    """One for the commands of a test run, or None where none of them is a plain pytest.

    ``folder``: where it may write in the sandbox. ``hidden``: files that the run must not change.
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


def statuses(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What pytest's summary would say of each test; of several runs the last one counts."""
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
    """The tests that an id stands for which is cut off within its parameters, as rows of SWE-bench
    have them."""
    cut = test.count("[") > test.count("]")
    return [name for name in found if name.startswith(test)] if cut else []


def contradiction(
    records: Sequence[Mapping[str, Any]], canary: str, passed: Sequence[str], parse: Parser
) -> str:
    """Why the log that says that ``passed`` passed is not to be believed; empty if it is."""
    if not records:
        return "the log says that all passed, but the test framework never reported its end"
    if changed := [name for record in records for name in record["changed"]]:
        return f"{changed[0]} was changed while the tests ran"
    found = statuses(records)
    ours = [status for test, status in found.items() if test.endswith(f"::{canary}")]
    if any(status not in ("FAILED", "ERROR") for status in ours):
        return "a test that must fail was reported as passed: the test framework was changed"
    made = [record["canary"] for record in records]
    if not ours and not all(said == "none" or said.startswith("error") for said in made):
        return "a test that must fail was not run: the test framework was changed"
    # through the same parser, since some shorten the names
    shown = {name: text for record in records for name, text in record["shown"].items()}
    said = [f"{s} {shown.get(test, test)}" for test, s in found.items() if s in _KEPT]
    counts = {"passed": 0, "xfailed": 0}
    for line in said:
        counts["xfailed" if line.startswith("XFAIL") else "passed"] += 1
    closing = ", ".join(f"{n} {noun}" for noun, n in counts.items() if n) or "0 passed"
    text = "\n".join(["=== short test summary info ===", *said, f"=== {closing} in 0.01s ==="])
    kept = parse(text + "\n", frozenset(passed))
    wrong = [test for test in passed if test not in kept and not begins(test, kept)]
    if wrong:
        return f"the log says that {wrong[0]} passed, the test framework does not"
    return ""
