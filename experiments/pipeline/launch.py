"""Training in a process of its own, on as many GPUs as the launcher is told.

A run is one process: it collects, asks teachers, writes files. Only training wants many, so a run
starts ``training.launch`` (``[torchrun, --nproc-per-node, "8"]``, say) in front of
``-m experiments.train RUN_FOLDER ROUND`` and shows what that tells. Both sides of what goes between
them are here: lines of JSON on stdout, of the first process alone; all else is kept in train.log.
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

MARK = "@training "  # such a line is for the run
OF_RUN = "--of-run"  # the run that started us holds the lock, and listens
LOG, TAIL = "train.log", 15  # lines of it that a failure shows
PATIENCE = 20  # seconds between asking to stop and killing
_PACKAGES = str(Path(__file__).resolve().parents[2])


class Told(Display):
    """For processes that a run or a launcher started: progress goes to the run, and only from the
    first of them."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self.console.quiet = True

    @contextlib.contextmanager
    def phase(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        def show(now: int, of: int | None, note: str) -> None:
            tell(done=now, total=of or total, note=note)

        show(done, total, "")
        yield Advance(done, show)


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def tell(**facts: Any) -> None:
    if is_first():
        print(f"\n{MARK}{json.dumps(facts)}", flush=True)


def die_with_parent() -> None:
    """A run that is killed must not leave a training behind that writes into its folder."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def training(launch: Sequence[str], run: RunFolder, index: int, display: Display) -> Iterator[None]:
    """Trains round ``index`` while the body goes on; leaving waits for its end. SetupError with the
    end of its log where it fails. It is stopped where the body raises, and on Ctrl-C."""
    own = run.round(index)
    if own.is_done("train"):
        yield
        return
    command = [*launch, "-m", "experiments.train", str(run.path), str(index), OF_RUN]
    _free_gpu()
    with display.phase(f"round {index}: train", 1) as advance:
        process = _start(command)
        told: dict[str, Any] = {}
        log = own.path / LOG
        follower = threading.Thread(target=_follow, args=(process, log, advance, told), daemon=True)
        follower.start()
        try:
            yield
            follower.join()
            code = process.wait()
        finally:
            _stop(process)
    if "error" in told:
        raise SetupError(told["error"])
    if code or not own.is_done("train"):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
        raise SetupError(
            f"round {index}: training ended with code {code}. It was started as\n"
            f"  {shlex.join(command)}\nThe end of {log}:\n{tail}\n"
            "Episodes are kept: mend that and give the same command again."
        )


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """In a session of its own: Ctrl-C reaches the run alone, which then stops it."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    packages = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(path),  # the torchrun beside this Python first
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
            f"training.launch: {command[0]} cannot be started ({error.strerror}); it is what "
            "comes before -m, such as [torchrun, --nproc-per-node, '8']"
        ) from None


def _follow(
    process: subprocess.Popen[str], log: Path, advance: Advance, told: dict[str, Any]
) -> None:
    assert process.stdout is not None
    with log.open("w") as kept:
        for line in process.stdout:
            try:
                facts = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else {}
            except ValueError:
                facts = {}  # other processes write to the same pipe
            if "error" in facts:
                told.update(facts)
            elif facts:
                advance.to(facts["done"], facts["total"], facts["note"])
            elif line.strip():
                kept.write(line)
                kept.flush()


def _stop(process: subprocess.Popen[str]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)


def _free_gpu() -> None:
    """What the student that collected leaves in the allocator would be missed by the training."""
    if "torch" in sys.modules:
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
