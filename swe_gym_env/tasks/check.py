"""Check the fields of a task before anything is built or started for it.

The faults that are found here can be corrected only by the author of the task. Tasks of every set
are checked, and so are tasks that were made in Python and passed to the environment. Messages use
the names of the columns of rows (``patch``, ``FAIL_TO_PASS``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Any, get_args
from urllib.parse import quote

from swe_gym_env.errors import SetupError
from swe_gym_env.grading import parsers
from swe_gym_env.text import half_character
from swe_gym_env.types import EvalType, TaskInstance

COLUMNS = {
    "gold_patch": "patch",
    "fail_to_pass": "FAIL_TO_PASS",
    "pass_to_pass": "PASS_TO_PASS",
}
TEXTS = (
    *("instance_id", "repo", "base_commit", "image", "problem_statement", "gold_patch"),
    *("test_patch", "eval_script", "log_parser", "eval_type", "workdir", "source", "split"),
)
FILLED = ("instance_id", "image", "problem_statement", "eval_script")
ONE_LINE = ("instance_id", "repo", "base_commit", "image", "log_parser", "workdir", "split")
PATCHES = ("gold_patch", "test_patch")
EVAL_TYPES = get_args(EvalType)
LONGEST_NAME = 200  # bytes of an id, since it becomes the name of a file with a suffix
_VALUES = attrgetter(*TEXTS)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HASH = re.compile(r"[0-9a-fA-F]{4,64}")
_REF = re.compile(r"\w[\w./+-]*")
_WORKDIR = re.compile(r"(/[\w.@+,=-]+)+")
_DIFF = re.compile(r"^(?:diff --git |--- .*\n\+\+\+ )", re.MULTILINE)


def check(task: TaskInstance, where: str = "") -> TaskInstance:
    """Check a task and return it.

    Whether the image contains the base commit is checked only when a sandbox starts.

    Args:
        task: The task.
        where: File and line of its row; empty for a task that was made in Python. For a row, the
            form of the base commit is checked too.

    Raises:
        SetupError: With ``where``, the column, and what is allowed in it.
    """
    for part in (_texts, _objects, _fields, _tests):  # each relies on the ones before it
        for name, why in part(task):
            if why and (where or name != "base_commit"):
                place = where or f"task {task.instance_id!r:.80}"
                raise SetupError(f"{place}, column {COLUMNS.get(name, name)!r}: {why}")
    return task


Faults = list[tuple[str, str]]  # (column, what is wrong with it)


def _texts(task: TaskInstance) -> Faults:
    for name, value in zip(TEXTS, _VALUES(task), strict=True):
        if not isinstance(value, str):
            return [(name, f"not a text: {value!r:.80}")]
        if name in FILLED and not value.strip():
            return [(name, "is empty")]
        if value.isascii() and (
            value.isprintable() or (name not in ONE_LINE and "\0" not in value)
        ):
            continue  # the usual case
        if name in ONE_LINE and (match := _CONTROL.search(value)):
            return [(name, f"holds the control character {match[0]!r}: {value!r:.80}")]
        if name not in PATCHES and "\0" in value:
            return [(name, "holds a NUL character")]
        if half := half_character(value):
            return [(name, f"holds half a character, {half}: it cannot be written as UTF-8")]
    return []


def _fields(task: TaskInstance) -> Faults:
    return [
        ("instance_id", _name(task.instance_id)),
        ("base_commit", _commit(task)),
        ("image", _image(task.image)),
        ("workdir", _workdir(task.workdir)),
        ("gold_patch", _patch(task.gold_patch)),
        ("test_patch", _patch(task.test_patch)),
        ("eval_type", _one_of(task.eval_type, EVAL_TYPES)),
        ("log_parser", _parser(task.log_parser)),
    ]


def _name(value: str) -> str:
    """What is wrong with an id, which becomes the name of log files and of folders."""
    if "/" in value or "\\" in value or value in (".", ".."):
        return f"files are named after it, so it must hold no slash: {value!r:.80}"
    if value != value.strip():
        return f"begins or ends with a blank: {value!r:.80}"
    if len(quote(value, safe="")) > LONGEST_NAME:
        return f"is too long to name a file after it: {value!r:.80}..."
    return ""


def _commit(task: TaskInstance) -> str:
    value = task.base_commit
    if _HASH.fullmatch(value):
        return ""
    # A tag can move. Only the set-up script of a task may use one, since it sets it in each
    # sandbox.
    if task.metadata.get("setup") and _REF.fullmatch(value):
        return ""
    return f"the commit's hash in hexadecimal is wanted, all 40 digits of it: {value!r:.80}"


def _image(value: str) -> str:
    if re.search(r"\s", value) or value.startswith(("/", "-", ".")) or ".." in value.split("/"):
        return f"not the name of an image: {value!r:.80}"
    return ""


def _workdir(value: str) -> str:
    if not _WORKDIR.fullmatch(value) or {".", ".."} & set(value.split("/")):
        return (
            "an absolute path of letters, digits and . _ - + = , @ is wanted, such as /testbed: "
            f"{value!r:.80}"
        )
    return ""


def _patch(text: str) -> str:
    if not text.strip():
        return ""
    match = _DIFF.search(text)
    if match is None:
        return f"not a diff as `git diff` writes it (diff --git a/... b/...): {text!r:.80}"
    if text[match.start() :].partition("\n")[0].endswith("\r"):
        return "its lines end in CR LF, so git cannot apply it: write it with LF alone"
    return ""


def _one_of(value: str, known: Collection[str]) -> str:
    if value in known:
        return ""
    near = difflib.get_close_matches(value, known, 1)
    return f"{value!r} is not one of {', '.join(known)}" + (f"; {near[0]}?" if near else "")


def _parser(value: str) -> str:
    try:
        parsers.parser(value)
    except SetupError as error:
        return str(error)
    return ""


def _tests(task: TaskInstance) -> Faults:
    lists = {name: getattr(task, name) for name in ("fail_to_pass", "pass_to_pass")}
    for name, tests in lists.items():
        if why := _list(tests):
            return [(name, why)]
    if not task.fail_to_pass and not task.metadata.get("expected"):
        none = "no test at all" if not task.pass_to_pass else "no test that must begin to pass"
        return [("fail_to_pass", f"names {none}: any change would resolve the task")]
    if both := set(task.fail_to_pass) & set(task.pass_to_pass):
        return [("pass_to_pass", f"{min(both)!r:.80} stands in FAIL_TO_PASS as well")]
    return []


def _list(tests: Any) -> str:
    if not isinstance(tests, tuple | list):
        return f"not a list of test ids: {tests!r:.80}"
    for test in tests if not _plain(tests) else ():
        if not isinstance(test, str) or not test.strip():
            return f"not a test id: {test!r:.80}"
        if (match := _CONTROL.search(test)) or half_character(test):
            return f"a test id holds {match[0] if match else half_character(test)!r}: {test!r:.80}"
    if len(set(tests)) < len(tests):
        return f"{next(t for t in tests if tests.count(t) > 1)!r:.80} stands there twice"
    return ""


def _plain(tests: Collection[Any]) -> bool:
    """Whether all are printable ASCII. A quick check, since a row may have thousands of tests."""
    try:
        text = "".join(tests)
    except TypeError:
        return False
    return text.isascii() and text.isprintable() and all(map(str.strip, tests))


def _objects(task: TaskInstance) -> Faults:
    for name in ("env", "metadata"):
        if not isinstance(getattr(task, name), Mapping):
            return [(name, f"not an object: {getattr(task, name)!r:.80}")]
    found = [("env", _variable(name, value)) for name, value in task.env.items()]
    for part in ("setup", "hide"):
        if not isinstance(task.metadata.get(part, ""), str):
            found.append(("metadata", f"{part!r} is not a text: {task.metadata[part]!r:.80}"))
    expected = task.metadata.get("expected", {})
    if not isinstance(expected, Mapping | None):
        found.append(("metadata", f"'expected' is not an object: {expected!r:.80}"))
    return found


def _variable(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not name or "=" in name or _CONTROL.search(name):
        return f"not the name of a variable: {name!r:.80}"
    if not isinstance(value, str):
        return f"the value of {name!r} is not a text: {value!r:.80} (write it in quotes)"
    if "\0" in value or half_character(value):
        return f"the value of {name!r} cannot be a variable's: {value!r:.80}"
    return ""
