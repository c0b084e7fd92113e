"""A kept log is judged by swebench's rules: the same logs, side by side with its own harness."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace

import pytest

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import parsers, verdict
from swe_gym_env.grading.verdict import Trailer, sealed
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.types import TaskInstance

TASK = TaskInstance(
    instance_id="a-1",
    repo="a/a",
    base_commit="",
    image="",
    problem_statement="",
    gold_patch="",
    test_patch="",
    fail_to_pass=("t.py::test_new",),
    pass_to_pass=("t.py::test_old", "t.py::test_cut[log(photon"),
    eval_script="",
    log_parser="parse_log_pytest",
)
CUT = ("t.py::test_cut[log(photon)-1]", "t.py::test_cut[log(photon)-2]")


def ours(task: TaskInstance, output: str, exit_code: int) -> str:
    log = f"{parsers.START} n\n{output}\n{parsers.END} n\n"
    return verdict(task, sealed(log, "n", Trailer(exit=exit_code)), "n").status


def theirs(task: TaskInstance, output: str, exit_code: int) -> str:
    from swebench.harness.grading import get_eval_report
    from swebench.harness.utils import make_test_spec

    log = f"{parsers.START}\n{output}\n{parsers.END}\n>>>>> Test Exit Code: {exit_code}\n"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(log)
        file.flush()
        spec = make_test_spec(to_row(task))
        prediction = {"instance_id": task.instance_id, "model_patch": "x"}
        report = get_eval_report(spec, prediction, file.name, include_tests_status=False)
    return "resolved" if report[task.instance_id]["resolved"] else "unresolved"


WORDS = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS", "")


@pytest.mark.parametrize("exit_code", [0, 1, 2])
def test_every_mix_of_statuses_has_the_verdict_of_swebench(exit_code: int) -> None:
    for new, old, *cut in itertools.product(WORDS, WORDS, WORDS[:4], WORDS[:2]):
        names = (TASK.fail_to_pass[0], TASK.pass_to_pass[0], *CUT)
        lines = [f"{s} {n}" for s, n in zip((new, old, *cut), names, strict=True) if s]
        output = "\n".join(lines)
        assert ours(TASK, output, exit_code) == theirs(TASK, output, exit_code), output


@pytest.mark.parametrize("word", parsers.VOID)
def test_words_that_void_a_log(word: str) -> None:
    output = f"{word}\n" + "".join(f"PASSED {t}\n" for t in (*TASK.fail_to_pass, *CUT))
    task = replace(TASK, pass_to_pass=())
    assert ours(task, output, 0) == theirs(task, output, 0) == "unresolved"


@pytest.mark.parametrize(
    "output", ["", "Executed 3 of 3", "Executed 0 of 0", "3 passing", "  1) test_new:"]
)
def test_where_only_failures_are_logged_an_absent_test_passed(output: str) -> None:
    task = replace(TASK, eval_type="fail_only", log_parser="parse_log_chart_js")
    assert ours(task, output, 0) == theirs(task, output, 0)


def test_fail_only_means_nothing_where_passes_are_logged() -> None:
    task = replace(TASK, eval_type="fail_only")
    assert ours(task, "PASSED t.py::test_other", 0) == "unresolved"


def test_a_log_that_is_not_ours_is_no_verdict() -> None:
    with pytest.raises(GradingError, match="no trailer"):
        verdict(TASK, "PASSED everything", "n")
    with pytest.raises(GradingError, match="did not start"):
        verdict(TASK, sealed("no such file", "n", Trailer(exit=1)), "n")
    cut = sealed("", "n", Trailer(exit=137))
    assert verdict(TASK, cut, "n").reason == "the test run was cut short"


def recorded(**reports: str) -> Trailer:
    """A trailer in which pytest reported these outcomes, and its canary's failure."""
    lines = [[f"t.py::{name}", "call", outcome, False] for name, outcome in reports.items()]
    lines.append(["t.py::test_canary", "call", "failed", False])
    record = {"exit": 1, "canary": "made", "changed": [], "reports": lines, "shown": {}}
    return Trailer(exit=1, canary="test_canary", records=(record,))


def test_what_pytest_reported_must_bear_the_log_out() -> None:
    task = replace(TASK, pass_to_pass=("t.py::test_cut[log(photon",))
    output = f"PASSED {task.fail_to_pass[0]}\nPASSED {CUT[0]}\n"
    output += "FAILED t.py::test_canary - assert\nFAILED t.py::test_x"
    log = f"{parsers.START} n\n{output}\n{parsers.END} n\n"

    def judged(trailer: Trailer, text: str = log) -> tuple[str, str]:
        outcome = verdict(task, sealed(text, "n", trailer), "n")
        return outcome.status, outcome.reason

    cut = {"test_cut[log(photon)-1]": "passed"}
    assert judged(recorded(test_new="passed", **cut)) == ("resolved", "")
    for trailer, reason in (
        (recorded(test_new="failed", **cut), "test_new passed, the test framework does not"),
        (recorded(**cut), "test_new passed, the test framework does not"),
        (replace(recorded(), records=(), exit=0), "never reported its end"),
    ):
        status, why = judged(trailer)
        assert status == "tampered" and reason in why
    lied = log.replace("FAILED t.py::test_canary", "PASSED t.py::test_canary")
    status, why = judged(replace(recorded(test_new="passed", **cut), exit=0), lied)
    assert status == "tampered" and "must fail" in why
    record = {**recorded(test_new="passed", **cut).records[0], "changed": ["tests/t.py"]}
    changed = replace(recorded(), records=(record,))
    assert judged(changed) == ("tampered", "tests/t.py was changed while the tests ran")
