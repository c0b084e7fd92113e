"""Training in a separate process, on as many GPUs as its launcher uses.

A run is one process: it collects, asks teachers and writes files. Only training needs several, so a
run starts ``training.launch`` (for example ``[torchrun, --nproc-per-node, "8"]``) followed by
``-m experiments.train RUN_FOLDER ROUND`` and shows its progress. Both ends of the connection are
here: the first process writes lines of JSON to stdout; all other output is kept in train.log.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.console.progress import Advance, Display
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from experiments.runs.folders import RunFolder

MARK = "@training "  # begins a line of progress for the run
OF_RUN = "--of-run"  # a run started this process; it holds the lock and reads the progress
LOG, TAIL = "train.log", 15  # lines of it that an error message shows
PATIENCE = 20  # seconds between SIGTERM and SIGKILL
_PACKAGES = str(Path(__file__).resolve().parents[2])


class WorkerDisplay(Display):
    """The display of a process that a run or a launcher started: it reports to the run."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self.console.quiet = True

    @contextlib.contextmanager
    def phase(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        def show(now: int, of: int | None, note: str) -> None:
            report_progress(done=now, total=of or total, note=note)

        show(done, total, "")
        yield Advance(done, show)


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def report_progress(**facts: Any) -> None:
    """Sends ``facts`` to the run that started this process; only the first process does."""
    if is_first():
        print(f"\n{MARK}{json.dumps(facts)}", flush=True)


def die_with_parent() -> None:
    """Ends this process with its parent, so that a killed run leaves no process behind that writes
    into its folder."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def training(launch: Sequence[str], run: RunFolder, index: int, display: Display) -> Iterator[None]:
    """Trains round ``index`` in a separate process while the caller's block runs.

    Leaving the block waits for the end of the training. If the block raises, or on Ctrl-C, the
    training is stopped.

    Raises:
        SetupError: The training failed; the message shows the end of its log.
    """
    folder = run.round(index)
    if folder.is_done("train"):
        yield
        return
    command = [*launch, "-m", "experiments.train", str(run.path), str(index), OF_RUN]
    _free_gpu()
    with display.phase(f"round {index}: train", 1) as advance:
        process = _start(command)
        failure: dict[str, Any] = {}
        log = folder.path / LOG
        arguments = (process, log, advance, failure)
        follower = threading.Thread(target=_follow, args=arguments, daemon=True)
        follower.start()
        try:
            yield
            follower.join()
            code = process.wait()
        finally:
            _stop(process)
    if "error" in failure:
        raise SetupError(failure["error"])
    if code or not folder.is_done("train"):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
        raise SetupError(
            f"round {index}: training ended with code {code}. It was started as\n"
            f"  {shlex.join(command)}\nThe end of {log}:\n{tail}\n"
            "Episodes are kept: correct that and give the same command again."
        )


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """In a separate session: Ctrl-C reaches only the run, which then stops this process."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    packages = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(path),  # finds the torchrun of this Python first
        "PYTHONPATH": os.pathsep.join(packages),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise SetupError(
            f"training.launch: {command[0]} cannot be started ({error.strerror}); give the words "
            "that come before -m, such as [torchrun, --nproc-per-node, '8']"
        ) from None


def _follow(
    process: subprocess.Popen[str], log: Path, advance: Advance, failure: dict[str, Any]
) -> None:
    """Shows the progress of ``process`` and keeps the rest of its output in ``log``. The message of
    its failure goes to ``failure``."""
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            try:
                facts = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else {}
            except ValueError:
                facts = {}  # another process wrote into the line
            if "error" in facts:
                failure.update(facts)
            elif facts:
                advance.to(facts["done"], facts["total"], facts["note"])
            elif line.strip():
                file.write(line)
                file.flush()


def _stop(process: subprocess.Popen[str]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)


def _free_gpu() -> None:
    """Gives back the memory that torch holds after collecting, which training needs."""
    if "torch" in sys.modules:
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
