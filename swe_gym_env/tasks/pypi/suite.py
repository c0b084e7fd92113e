"""Run a test suite as a function call; ``suite_server.py`` is the side in the subprocess.

At build time, suites run in ordinary subprocesses with limits on time and memory and a clean
environment, not in a sandbox: the code is that of the published package with one operator changed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

SERVER = Path(__file__).with_name("suite_server.py")


@dataclass(frozen=True)
class SuiteRun:
    """The result of one run of a suite.

    Attributes:
        exit: Exit code of pytest; -1 if the run was killed.
        seconds: Wall-clock time.
        statuses: Status by test id.
        places: Test id -> (file, first line of its function).
        failures: ``test``, ``statement``, ``error`` and ``params`` of the first failing tests.
        collect_errors: Messages of files that could not be collected.
        covered: File -> lines that were executed; only of a traced run.
        callers: File -> first line of a function -> test -> fewest calls from the test to the
            function; only of a traced run. The test ``*`` stands for the import.
        timeout: Whether the run was killed at its time limit.
    """

    exit: int
    seconds: float
    statuses: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    failures: Sequence[Mapping[str, Any]] = ()
    collect_errors: Sequence[str] = ()
    covered: Mapping[str, Sequence[int]] = field(default_factory=dict)
    callers: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    timeout: bool = False

    def having(self, *wanted: str) -> set[str]:
        """Ids of the tests with one of these statuses."""
        return {test for test, status in self.statuses.items() if status in wanted}


class Suite:
    """A warm interpreter that runs the suite of one package. Used by one thread at a time.

    Args:
        python: The interpreter of the package's environment.
        path: What PYTHONPATH must contain, relative to the tree.
        hash_seed: PYTHONHASHSEED of the runs.
    """

    def __init__(self, python: Path, path: Sequence[str], hash_seed: int = 0) -> None:
        self._python, self._path = python, list(path)
        self._process = subprocess.Popen(
            [str(python), "-B", "-s", str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(python, hash_seed),
            start_new_session=True,
        )

    def run(
        self, root: Path, args: Sequence[str], *, timeout: float, trace: bool = False
    ) -> SuiteRun:
        """Run the suite once.

        Args:
            root: The tree.
            args: Arguments of pytest.
            timeout: Limit in seconds of processor time.
            trace: Whether lines and calls are recorded; this is much slower.

        Raises:
            SetupError: The interpreter has ended.
        """
        request = {
            "root": str(root),
            "path": self._path,
            "args": list(args),
            "timeout": timeout,
            "trace": trace,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SetupError(
                f"the test interpreter {self._python} died; delete its environment so that it is "
                "made again"
            )
        return SuiteRun(**json.loads(line))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def environment(python: Path, hash_seed: int = 0) -> dict[str, str]:
    """The environment of a suite, which contains nothing of the user's environment."""
    return {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": os.devnull,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": str(hash_seed),
    }
