"""Run the test suite of a package many times without starting an interpreter each time.

This file is started by its path with the interpreter of the package's environment, so it cannot
import this project. It imports pytest once. For each request, one line of JSON on standard input,
it forks (``_run``). The child enters the tree, runs pytest in its process and reports through a
pipe (``_child``); the parent enforces the time limit and answers with one line of JSON.

Invariant: the parent never imports the package or its tests, so every run sees the files as they
    are at that time. To be fast, it does keep two kinds of results of its children that cannot
    depend on these files: modules of the standard library that a run imported, and compiled test
    files, stored under a hash of their content (:class:`Rewritten`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import inspect
import json
import marshal
import math
import os
import resource
import select
import signal
import sys
import time
from typing import Any

import pytest
from _pytest.assertion import rewrite
from _pytest.config import default_plugins

MEMORY = 2 << 30  # bytes of address space of a run
# The limit is on processor time, so that a verdict does not depend on the load of the machine. A
# run that sleeps or waits may take PATIENCE times the limit by the clock. A run that is ready to
# execute, but gets no processor because of other programs, may take as long as it needs (_starved).
PATIENCE = 4
MAX_MESSAGES = 48  # messages of failures; a valid task has fewer failing tests
OPTIONS = ["-q", "--tb=no", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "ignore"]

# Files that may configure pytest, in its order of precedence -> the section that they must contain
CONFIGS = {
    "pytest.ini": "",
    ".pytest.ini": "",
    "pyproject.toml": "[tool.pytest",
    "tox.ini": "[pytest]",
    "setup.cfg": "[tool:pytest]",
}


class Recorder:
    """A pytest plugin that collects the status, place and failure of each test.

    With ``trace`` it also records through ``sys.settrace`` which lines are executed and which tests
    enter a function.

    Attributes:
        running: The running test without its parameters; ``*`` during the import of test files.
        covered: File -> executed lines.
        callers: File -> first line of a function -> test -> fewest calls from the test to it.
    """

    def __init__(self, root: str, trace: bool) -> None:
        self.root = root
        self.statuses: dict[str, str] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self.failures: list[dict[str, Any]] = []
        self.covered: dict[str, set[int]] = {}
        self.callers: dict[str, dict[int, dict[str, int]]] = {}
        self.running = "*"
        self.collect_errors: list[str] = []
        if trace:
            sys.settrace(self._trace)

    def _trace(self, frame: Any, event: str, _arg: object) -> Any:
        """Called at the start of each function; returns what is called for its lines."""
        name = frame.f_code.co_filename
        if not name.startswith(self.root):
            return None
        file = name[len(self.root) + 1 :]
        lines = self.covered.setdefault(file, set())
        first = frame.f_code.co_firstlineno
        callers = self.callers.setdefault(file, {}).setdefault(first, {})
        if callers.get(self.running, 2) > 1:  # 1 is a direct call: it cannot become shorter
            steps = self._distance(frame)
            callers[self.running] = min(steps, callers.get(self.running, steps))

        def local(frame: Any, event: str, _arg: object) -> Any:
            lines.add(frame.f_lineno)
            return local

        lines.add(frame.f_lineno)
        return local

    def _distance(self, frame: Any) -> int:
        """Number of calls from the outermost frame in the tree, that of a test or a fixture."""
        distance = steps = 0
        frame = frame.f_back
        while frame is not None and "/_pytest/" not in frame.f_code.co_filename:
            steps += 1
            if frame.f_code.co_filename.startswith(self.root):
                distance = steps
            frame = frame.f_back
        return distance

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.collect_errors.append(str(report.longrepr)[-2000:])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running = nodeid.split("[")[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        ident, worst = item.nodeid, self.statuses.get(item.nodeid)
        if report.failed:
            self.statuses[ident] = "FAILED" if report.when == "call" else "ERROR"
        elif report.skipped and worst is None:
            self.statuses[ident] = "XFAIL" if hasattr(report, "wasxfail") else "SKIPPED"
        elif report.when == "call" and worst is None:
            self.statuses[ident] = "XPASS" if hasattr(report, "wasxfail") else "PASSED"
        if report.when == "setup":
            self._place(item)
        if report.failed and call.excinfo is not None and len(self.failures) < MAX_MESSAGES:
            self._failure(item, call.excinfo)
        return report

    def _place(self, item: Any) -> None:
        """Record the file and first line of the function of a test."""
        function = inspect.unwrap(getattr(item, "obj", None) or (lambda: None))
        code = getattr(function, "__code__", None)
        if code is not None:
            file = os.path.relpath(code.co_filename, self.root)
            self.places[item.nodeid] = (file, code.co_firstlineno)

    def _failure(self, item: Any, excinfo: Any) -> None:
        """Record the statement of the test that failed, the error, and the test's parameters."""
        file = os.path.join(self.root, self.places.get(item.nodeid, ("", 0))[0])
        inside = [entry for entry in excinfo.traceback if str(entry.path) == file]
        with contextlib.suppress(Exception):
            self.failures.append(
                {
                    "test": item.nodeid,
                    "statement": str(inside[-1].statement) if inside else "",
                    "error": excinfo.exconly(tryshort=True)[:2000],
                    "params": {
                        k: repr(v)[:200]
                        for k, v in getattr(getattr(item, "callspec", None), "params", {}).items()
                    },
                }
            )

    def answer(self, code: int) -> dict[str, Any]:
        """The answer to the request, as JSON values (the fields of ``suite.SuiteRun``)."""
        return {
            "exit": code,
            "statuses": self.statuses,
            "places": self.places,
            "failures": self.failures,
            "collect_errors": self.collect_errors,
            "covered": {file: sorted(lines) for file, lines in self.covered.items()},
            "callers": {
                file: {line: dict(sorted(tests.items())) for line, tests in found.items()}
                for file, found in self.callers.items()
            },
            "modules": _library_modules(),
            "rewritten": REWRITTEN.fresh,
        }


class Rewritten:
    """Test files that pytest has compiled, by path and content.

    Rewriting asserts takes most of the time of a quick suite. A child sends the files that it had
    to compile to the parent, whose later children find them in memory.

    Attributes:
        kept: Compiled files of earlier runs.
        fresh: Compiled files of this run: marshaled, as base64.
    """

    LARGEST = 400  # number of files that are kept

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.fresh: dict[str, str] = {}
        self._original = rewrite._rewrite_test
        rewrite._rewrite_test = self._rewrite  # type: ignore[assignment]

    def _rewrite(self, path: Any, config: Any) -> Any:
        key = f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        if key in self.kept:
            return os.stat(path), self.kept[key]
        stat, code = self._original(path, config)
        self.fresh[key] = base64.b64encode(marshal.dumps(code)).decode()
        return stat, code

    def keep(self, fresh: dict[str, str]) -> None:
        """In the parent: keep the compiled files of a child."""
        if len(self.kept) < self.LARGEST:
            self.kept |= {k: marshal.loads(base64.b64decode(v)) for k, v in fresh.items()}


REWRITTEN = Rewritten()


def _library_modules() -> list[str]:
    """Modules of the standard library that this run has imported; the parent imports them too."""
    return sorted(set(sys.modules) & set(sys.stdlib_module_names))


def _child(request: dict[str, Any], pipe: int) -> None:
    """Run pytest once and write the answer to ``pipe``.

    The child leads a session, so that the parent can kill all processes that its tests start. At
    the limit on processor time the kernel sends SIGXCPU, which the parent recognizes.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = math.ceil(request["timeout"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    root = request["root"]
    os.chdir(root)
    sys.path[:0] = [os.path.normpath(os.path.join(root, part)) for part in request["path"]]
    recorder = Recorder(root, request.get("trace", False))
    options = [*OPTIONS, f"--rootdir={root}", f"--confcutdir={root}", "-c", _config(root)]
    code = int(pytest.main([*options, *request["args"]], plugins=[recorder]))
    sys.settrace(None)
    with os.fdopen(pipe, "wb") as out:
        out.write(json.dumps(recorder.answer(code)).encode())


def _config(root: str) -> str:
    """The pytest configuration of the tree, so that pytest does not search the folders above it."""
    for name, section in CONFIGS.items():
        with contextlib.suppress(OSError), open(os.path.join(root, name)) as handle:
            if section in handle.read():
                return os.path.join(root, name)
    return os.devnull


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a request, enforce its time limit, and return its answer.

    The pipe is read until its end or the deadline. A child that is starved at the deadline gets
    more time. A child that was killed has sent no complete JSON: then the answer has ``timeout``,
    or only the exit code -1 if the child has crashed.
    """
    start = time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _child(request, writer)
        finally:
            os._exit(0)
    os.close(writer)
    data, deadline = b"", start + PATIENCE * request["timeout"]
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready and _starved(pid):
            deadline = time.monotonic() + 0.2
            continue
        chunk = os.read(reader, 1 << 16) if ready else b""
        data += chunk
        if not chunk:
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    spent = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    seconds = time.monotonic() - start
    try:
        return {**json.loads(data), "seconds": seconds}
    except ValueError:
        return {"exit": -1, "seconds": seconds, "statuses": {}, "timeout": spent or not ready}


def _starved(pid: int) -> bool:
    """Whether a process is ready to run, or waits for a disk, and lacks only its turn."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[0] in "RD"
    except OSError:
        return False


def main() -> None:
    for name in default_plugins:
        importlib.import_module(f"_pytest.{name}")
    sys.path.pop(0)  # the folder of this file
    out = sys.stdout
    for line in sys.stdin:
        answer = _run(json.loads(line))
        REWRITTEN.keep(answer.pop("rewritten", {}))
        for name in answer.pop("modules", []):
            if name not in sys.modules and not name.startswith("_"):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
