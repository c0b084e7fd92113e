"""Runs our command lines as real processes that are forked from one warm interpreter.

A new interpreter imports torch, transformers and Hydra for three to six seconds of CPU before the
command does anything. ``interpreter()`` pays that once for a whole test process; each command after
it is a fork. Tests that are about the import itself start a new process.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support import costs, tiers
from tests.support.warm_server import ROOT

# torch reads these once, when it is imported: other values need another interpreter
AT_START = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS",
)


class WarmInterpreter:
    """The client of ``warm_server.py``.

    Args:
        env: environment variables that count at the start of Python, beside those of this process.
    """

    def __init__(self, env: Mapping[str, str] = MappingProxyType({})) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_server"],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(
        self, module: str, *arguments: str, env: Mapping[str, str], log: Path, **request: Any
    ) -> Run:
        """Start ``python -m module arguments`` in the environment ``env``.

        Args:
            log: file to which stdout and stderr are appended.
            request: ``events`` and ``kill``, see ``chaos/watch.py``.
        """
        tiers.used("e2e")
        log.touch()
        command = {"module": module, "arguments": arguments, "env": dict(env), "log": str(log)}
        return Run(self, self._ask(**command, **request), log)

    def run(
        self, module: str, *arguments: str, env: Mapping[str, str], timeout: float
    ) -> tuple[int, str]:
        """Run a command to its end. Its exit code, and what it printed."""
        with tempfile.TemporaryDirectory() as folder:
            run = self.start(module, *arguments, env=env, log=Path(folder, "log.txt"))
            try:
                return run.wait(timeout), run.output
            finally:
                run.close()

    def wait(self, pid: int) -> int:
        code, cpu = self._ask(wait=pid)
        costs.elsewhere(cpu)
        return int(code)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def interpreter(env: Mapping[str, str] = os.environ) -> WarmInterpreter:
    """The one of this test process for commands with this environment. It ends with the process,
    because its stdin is closed then."""
    return _interpreter(tuple((name, env[name]) for name in AT_START if name in env))


@functools.cache
def _interpreter(at_start: tuple[tuple[str, str], ...]) -> WarmInterpreter:
    return WarmInterpreter(dict(at_start))


class Run:
    """One command that was started. Its end is noticed through a file descriptor of the process, so
    that a process number that is used again is never signaled."""

    def __init__(self, interpreter: WarmInterpreter, pid: int, log: Path) -> None:
        self._interpreter, self.pid, self._log = interpreter, pid, log
        self._began = time.monotonic()
        self._gone: int | None = os.pidfd_open(pid)

    def ended(self, seconds: float = 0.0) -> bool:
        """Has it ended, or does it within ``seconds``?"""
        return self._gone is None or bool(select.select([self._gone], [], [], seconds)[0])

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code, or minus the signal."""
        assert self.ended(seconds), f"still running after {seconds} s:\n{self.output}"
        assert self._gone is not None
        self.seconds = time.monotonic() - self._began
        os.close(self._gone)
        self._gone = None
        return self._interpreter.wait(self.pid)

    def send(self, sig: int = signal.SIGKILL) -> None:
        assert self._gone is not None
        signal.pidfd_send_signal(self._gone, sig)

    def close(self) -> None:
        """Kill it if it still runs."""
        if self._gone is not None:
            self.send()
            self.wait()

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")
