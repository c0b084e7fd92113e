"""The test recorder inside of the graded run: a pytest plugin that reports beside the log.

A log can be forged, because code of the agent runs in the same process and can print anything. This
plugin therefore writes what pytest itself reported to a separate file, with a nonce that the
agent's code never sees. It also adds one test that must fail (the canary) to the last module: where
pytest was changed so that all tests pass, the canary passes too and gives the change away. And it
compares the hidden test files before and after, since code of the agent could rewrite them during
the run.

The file is never imported by this package. The grader reads it as text, appends the values of
the names below (``recorder.TestRecorder.source``), writes it into the sandbox under a random name
and loads it with ``-p``. It runs with the pytest and Python of the task, so it is written for
pytest 3 and Python 3.6. Before any code of the repository runs, it removes itself from the
environment, the path and the disk.
"""

import ast
import json
import os
import shutil
import sys
from typing import Any

import pytest

# Set by lines that the grader appends: see the fields of recorder.TestRecorder
NONCE = RECORD = CANARY = MODULE = ""
HIDDEN: Any = []
ONCE = True

FOLDER = os.path.dirname(os.path.abspath(__file__))  # holds this file only
reports: Any = []  # [test id, when, outcome, whether a failure was expected]
canary = ""  # "made", "none" (there is no test module), or "error: ..."
changed: Any = set()  # hidden test files that differ from ``sources``
sources: Any = {}  # path -> content before the run; appended by the grader


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _watch() -> None:
    """Note which hidden test files have changed since before any code of the agent ran."""
    changed.update(path for path in sources if _read(path) != sources[path])


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: Any) -> None:
    """Remove all traces of this plugin, before any code of the repository runs.

    With pytest-xdist they must stay, because its workers import the plugin again.
    """
    if getattr(early_config.known_args_namespace, "numprocesses", None):
        return
    options = os.environ.get("PYTEST_ADDOPTS", "").replace("-p " + MODULE, "").strip()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in paths if not path or os.path.abspath(path) != FOLDER]
    for name, value in (("PYTEST_ADDOPTS", options), ("PYTHONPATH", os.pathsep.join(paths))):
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    sys.path[:] = [path for path in sys.path if path != FOLDER]
    if ONCE:
        shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: Any) -> Any:
    yield
    global canary
    try:
        made = _canary(items)
        canary = "made" if made is not None else "none"
        if made is not None:
            items.append(made)  # last, so that -x and --maxfail stop nothing else
    except Exception as error:
        canary = "error: " + repr(error)


def _canary(items: Any) -> Any:
    """A test that must fail and looks like a test of the last module; None without a module."""
    module = next((m for m in (i.getparent(pytest.Module) for i in reversed(items)) if m), None)
    if module is None:
        return None
    path = str(getattr(module, "path", None) or module.fspath)
    scope: Any = {"__name__": module.obj.__name__}
    exec(compile(_source(path, module.config), path, "exec"), scope)
    make = getattr(pytest.Function, "from_parent", None)
    if make is None:
        return pytest.Function(CANARY, module, callobj=scope[CANARY])
    return make(module, name=CANARY, callobj=scope[CANARY])


def _source(path: str, config: Any) -> Any:
    """Source of the canary. Its assert is rewritten by pytest, as in all other tests."""
    text = "def %s():\n    assert not 1\n" % CANARY  # noqa: UP031
    tree = ast.parse(text)
    if config.getoption("assertmode", "plain") == "rewrite":
        try:
            from _pytest.assertion.rewrite import rewrite_asserts

            rewrite_asserts(tree, text.encode(), path, config)
        except Exception:  # older versions take other arguments
            return text
    return tree


def pytest_collection_finish() -> None:
    _watch()


def pytest_runtest_logreport(report: Any) -> None:
    if type(report).__name__ == "TestReport":  # not the report of a subtest
        xfail = hasattr(report, "wasxfail")
        reports.append([report.nodeid, report.when, report.outcome, xfail])


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        reports.append([report.nodeid, "collect", "failed", False])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: Any, exitstatus: Any) -> None:
    if hasattr(session.config, "workerinput"):
        return  # a worker of xdist: the main process has all reports
    _watch()
    names = {report[0] for report in reports}
    shown = {name: session.config.cwd_relative_nodeid(name) for name in names}
    record = {
        "nonce": NONCE,
        "exit": int(exitstatus),
        "canary": canary,
        "changed": sorted(changed),
        "reports": reports,
        "shown": {name: text for name, text in shown.items() if text != name},
    }
    with open(os.path.join(os.path.dirname(FOLDER), RECORD), "a") as file:
        file.write(json.dumps(record) + "\n")
