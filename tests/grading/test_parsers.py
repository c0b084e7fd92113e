"""Test logs: what pytest prints, and what somebody would like it to have printed."""

from __future__ import annotations

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.grading import parsers

SUMMARY = """collected 5 items

t.py .FxE.                                                               [100%]

=========================== short test summary info ============================
PASSED t.py::test_a
PASSED t.py::test_p[x - y]
FAILED t.py::test_b[1 - 2] - assert 1 == 2 - no
XFAIL t.py::test_x - some day
ERROR t.py::test_e - boom
========== 1 failed, 2 passed, 1 xfailed, 1 error in 0.12s (0:00:00) ===========
"""
WANTED = {
    f"t.py::{name}" for name in ("test_a", "test_p[x - y]", "test_b[1 - 2]", "test_x", "test_e")
}


def test_statuses_of_a_finished_run() -> None:
    assert parsers.pytest_summary(SUMMARY, WANTED) == {
        "t.py::test_a": "PASSED",
        "t.py::test_p[x - y]": "PASSED",
        "t.py::test_b[1 - 2]": "FAILED",
        "t.py::test_x": "XFAIL",
        "t.py::test_e": "ERROR",
    }


@pytest.mark.parametrize(
    "log",
    [
        "PASSED t.py::test_a\n",  # printed, no summary
        SUMMARY.rpartition("=====")[0].rpartition("\n")[0],  # cut short before the counts
        SUMMARY.replace("PASSED t.py::test_a", "PASSED t.py::test_a\nPASSED t.py::test_b[1 - 2]"),
        "",
    ],
)
def test_forged_and_cut_logs_count_for_nothing(log: str) -> None:
    assert parsers.pytest_summary(log, WANTED) == {}


def test_lines_outside_the_summary_count_for_nothing() -> None:
    found = parsers.pytest_summary("PASSED t.py::test_b[1 - 2]\n" + SUMMARY, WANTED)
    assert found["t.py::test_b[1 - 2]"] == "FAILED"


def test_ids_cut_at_a_space_or_unescaped_are_found_and_the_worst_counts() -> None:
    """As rows have them that swebench's parse_log_pytest made."""
    log = SUMMARY.replace("t.py::test_a", r"t.py::test_u[caf\xe9]")
    found = parsers.pytest_words(f"\x1b[31m{log}\x1b[0m", {"t.py::test_u[café]", "t.py::test_p[x"})
    assert found["t.py::test_u[café]"] == "PASSED" and found["t.py::test_p[x"] == "PASSED"
    assert found["t.py::test_b[1"] == "FAILED"
    both = SUMMARY.replace("PASSED t.py::test_a", "PASSED t.py::test_b[1 9]")
    assert parsers.pytest_words(both, ())["t.py::test_b[1"] == "FAILED"


def test_names_as_r2e_gym_has_them() -> None:
    log = SUMMARY.replace("FAILED t.py::", "FAILED r2e_tests/t.py::C::")
    assert parsers.r2e_gym(log + "ERROR r2e_tests/broken.py - no import\n", ()) == {
        "test_a": "PASSED",
        "test_p[x": "PASSED",
        "C.test_b[1": "FAILED",
        "test_e": "ERROR",
        "": "ERROR",
    }
    assert parsers.r2e_gym("PASSED t.py::test_a\n", ()) == {}


def test_markers_need_the_word_and_the_last_end_counts() -> None:
    forged = f"{parsers.START}\nPASSED all\n{parsers.END}\n"
    real = f"{parsers.START} n1\nlog\n{parsers.EXIT} 1\n{parsers.END} n1\n"
    assert parsers.test_output(forged, "n1") is None
    assert (parsers.test_output(forged + real, "n1") or "").strip().startswith("log")
    assert parsers.test_output(real.replace("Exit 1", "Exit 139"), "n1") is None
    assert parsers.test_output(real.replace(f"{parsers.END} n1", ""), "n1") is None


@pytest.mark.slow
def test_an_unknown_parser_says_which_there_are() -> None:
    with pytest.raises(SetupError, match=r"there are .*parse_log_django.*pytest"):
        parsers.parser("nose")


def test_the_parsers_that_may_miss_what_passed_are_those_of_swebench() -> None:
    from swebench.harness.constants import FAIL_ONLY_REPOS
    from swebench.harness.log_parsers import PARSER_REGISTRY
    from swebench.harness.log_parsers.javascript import MAP_REPO_TO_PARSER_JS

    theirs = {MAP_REPO_TO_PARSER_JS[repo] for repo in FAIL_ONLY_REPOS}
    assert {PARSER_REGISTRY[name] for name in parsers.FAILURES_ONLY} == theirs


def closing(counts: str, *lines: str) -> dict[str, str]:
    log = "\n".join(["== short test summary info ==", *lines, counts])
    return parsers.pytest_summary(log, {"t.py::a", "t.py::b", "t.py::a - x"})


@pytest.mark.parametrize(
    "counts",
    [
        "== 1 passed in 0.12 seconds ==",  # before pytest 5
        "1 passed in 0.12s",
        "= 1 passed in 90061.00s (1 day, 1:01:01) =",
        "= 1 passed, 2 subtests passed in 1.0s =",
        "= 1 passed, 3 deselected, 1 warning, 2 rerun, 1 known bug, 4 snapshots passed in 1.0s =",
        "\x1b[32m== \x1b[1m1 passed\x1b[0m, \x1b[33m2 warnings\x1b[0m in 0.1s ==\x1b[0m\r",
    ],
)
def test_words_that_plugins_count_do_not_void_a_log(counts: str) -> None:
    assert closing(counts, "PASSED t.py::a", "!!!! stopping after 1 failures !!!!") == {
        "t.py::a": "PASSED"
    }


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("SUBFAILED[msg] (i=1) t.py::b - assert 1", "1 failed, 1 passed in 1s"),
        ("SUBFAILED(i=1) t.py::b - x", "1 failed, 1 passed, 2 subtests passed in 1s"),
        ("SUBFAILED t.py::b", "1 failed, 1 passed in 1s"),
        ("[msg] (i=1) SUBFAIL t.py::b - assert 1", "1 failed, 1 passed in 1s"),
        ("SUBFAIL[a (b)] (x='c (d)') t.py::b", "1 failed, 1 passed in 1s"),
        ("SUBFAIL(i=1) t.py::b", "1 passed, 1 subtests failed in 1s"),
    ],
)
def test_a_failed_subtest_fails_its_test_and_no_other(line: str, counts: str) -> None:
    assert closing(counts, "PASSED t.py::a", line) == {"t.py::a": "PASSED", "t.py::b": "FAILED"}
    both = counts.replace("1 passed", "2 passed")
    assert closing(both, "PASSED t.py::a", "PASSED t.py::b", line)["t.py::b"] == "FAILED"


@pytest.mark.parametrize(
    "lines",
    [
        ("PASSED t.py::a", "PASSED t.py::b", "1 passed in 1s"),
        ("PASSED t.py::a", "1 passed, 1 failed in 1s"),
        ("PASSED t.py::a", "SUBPASSED t.py::b", "3 passed in 1s"),
        ("FAILED t.py::a", "PASSED t.py::b", "PASSED t.py::a", "1 failed, 1 passed in 1s"),
        ("PASSED t.py::a", "no tests ran in 0.1s"),
        ("PASSED t.py::a", "1 passed"),
        ("FAILED t.py::b - x\u2028PASSED t.py::a", "1 failed, 1 passed in 1s"),
        ("FAILED t.py::b - x\x0cPASSED t.py::a", "1 failed, 1 passed in 1s"),
    ],
)
def test_counts_that_do_not_fit_the_lines_void_them(lines: tuple[str, ...]) -> None:
    assert closing("", *lines) == {}


def test_of_a_test_that_passed_and_broke_the_worse_counts() -> None:
    for lines in (
        ("PASSED t.py::a", "ERROR t.py::a - boom"),
        ("ERROR t.py::a - boom", "PASSED t.py::a"),
    ):
        assert closing("1 passed, 1 error in 1s", *lines) == {"t.py::a": "ERROR"}


def test_a_skipped_test_with_an_id_is_known() -> None:
    assert closing("2 skipped in 1s", "SKIPPED t.py::a - why", "SKIPPED [1] t.py:3: why") == {
        "t.py::a": "SKIPPED"
    }


def test_several_runs_are_read_where_so_many_were_reported() -> None:
    one = "== short test summary info ==\nPASSED t.py::a\n1 passed in 1s\n"
    two = "== short test summary info ==\nFAILED t.py::b - x\n1 failed in 1s\n"
    forged = one.replace("t.py::a", "t.py::b")
    parse = parsers.pytest_summary
    assert parsers.several(parse, 2)(one + two, ()) == {"t.py::a": "PASSED", "t.py::b": "FAILED"}
    assert parsers.several(parse, 1)(one + two, ()) == {"t.py::b": "FAILED"}
    assert parsers.several(parse, 0)(forged + two, ()) == {"t.py::b": "FAILED"}
    assert parsers.several(parse, 2)(forged + one + two, ())["t.py::b"] == "FAILED"
    theirs = parsers.parser("parse_log_pytest")
    assert parsers.several(theirs, 2) is theirs


def test_colors_do_not_hide_statuses_from_parsers_of_swebench() -> None:
    parse = parsers.parser("parse_log_pytest")
    assert parse("\x1b[32mPASSED\x1b[0m t.py::\x1b[1ma\x1b[0m\r\n", ()) == {"t.py::a": "PASSED"}


def test_a_parser_nearly_named_is_asked_for() -> None:
    with pytest.raises(SetupError, match=r"'parse_log_djang': parse_log_django\? there are"):
        parsers.parser("parse_log_djang")
