"""The faults of the suite, each with what it cost: ``test_*.py`` and the benchmark use them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.chaos.driver import Job, Stage
from tests.support.warm import Run, WarmInterpreter

HOWS = ("before", "after", "torn")


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives that nobody breaks."""

    episodes: dict[str, Any]
    weights: dict[str, bytes]
    seconds: float
    events: list[str]  # its lasting calls, in their order


@dataclass
class Cost:
    """Of one fault. ``seconds``: all starts together, less the undisturbed run's."""

    lost: list[str]
    doubled: int
    orphans: list[str]
    scraps: list[str]
    same_weights: bool
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def harmless(self) -> bool:
        return self.same_weights and not (self.lost or self.doubled or self.orphans or self.scraps)


class Arena:
    """Where jobs are made, run undisturbed once, and broken."""

    def __init__(
        self, folder: Path, interpreter: WarmInterpreter, *overrides: str, model: Path | None = None
    ) -> None:
        """``model``: the student, else a tiny random one."""
        self.folder, self.interpreter, self.overrides = folder, interpreter, overrides
        self.stage = Stage(folder, model)
        self._count = 0
        job = self.job()
        run = job.finish(events=str(folder / "events"))
        left = [*job.orphans(), *job.scraps()]
        assert not job.doubled() and not left, left
        self.undisturbed = Undisturbed(
            job.episodes(), job.weights(), run.seconds, (folder / "events").read_text().split()
        )

    def job(self, *overrides: str) -> Job:
        self._count += 1
        folder = self.folder / f"job{self._count}"
        return Job(self.interpreter, self.stage, folder, *self.overrides, *overrides)

    def cost(self, job: Job, runs: list[Run]) -> Cost:
        """``runs``: all starts of the job, the last of which finished."""
        expected, found = self.undisturbed.episodes, job.episodes()
        lost = [key for key in expected if found.get(key) != expected[key]]
        lost += [key for key in found if key not in expected]
        return Cost(
            lost=lost,
            doubled=job.doubled(),
            orphans=job.orphans(),
            scraps=job.scraps(),
            same_weights=job.weights() == self.undisturbed.weights,
            seconds=sum(run.seconds for run in runs) - self.undisturbed.seconds,
        )


@dataclass(frozen=True)
class Kill:
    """SIGKILL of the run after a share of the undisturbed run's time, or at a lasting call."""

    share: float = 0.0
    event: dict[str, Any] | None = None

    def __str__(self) -> str:
        event = self.event
        return f"{event['how']} call {event['number']}" if event else f"at {self.share:.0%}"


def kills(arena: Arena, count: int, seed: int = 0) -> list[Kill]:
    """Random moments and calls that make something lasting, in turn."""
    rng, found = random.Random(seed), list[Kill]()
    calls = arena.undisturbed.events
    while len(found) < count:
        found.append(Kill(share=rng.random()))
        number = rng.randint(1, len(calls))
        how = rng.choice(HOWS if calls[number - 1] == "fsync" else HOWS[:2])
        found.append(Kill(event={"number": number, "how": how, "seed": rng.random()}))
    return found[:count]


def kill(arena: Arena, job: Job, at: Kill) -> list[Run]:
    """Starts the job, kills it, and starts it again until it is done."""
    run = job.start(kill=at.event)
    if at.event is None and not run.ended(at.share * arena.undisturbed.seconds):
        run.send()
    runs = [run]
    code = run.wait()
    assert code in (0, -signal.SIGKILL), run.output
    if code:
        runs.append(job.finish())
    return runs


def interrupt(arena: Arena, job: Job, share: float, twice: bool) -> list[Run]:
    """Ctrl-C after a share of the run's time, and again a moment later."""
    run = job.start()
    run.ended(share * arena.undisturbed.seconds)
    for _ in range(1 + twice):
        run.send(signal.SIGINT)
        run.ended(0.05)
    asked = time.monotonic()
    code = run.wait()
    if "report: " in run.output:  # it was over, and the signal came while the process ended
        return [run]
    # (a shell calls both 130: the second one may find the interpreter gone)
    assert code in (130, -signal.SIGINT) and "Traceback" not in run.output, run.output
    assert "go on with: python -m experiments.run" in run.output, run.output
    assert time.monotonic() - asked < 30, "within seconds, on a machine that is not busy"
    assert not job.orphans() and not job.scraps()
    return [run, job.finish()]


def lose_sandboxes(job: Job, count: int, pause: float, sig: int = signal.SIGKILL) -> list[Run]:
    """SIGKILL (or another) to the supervisor of some sandbox, so many times. With SIGKILL until one
    was missed: a sandbox may have been done with, or be made again before anything is asked of
    it."""
    rng = random.Random(count)

    def victims() -> list[int]:
        sandboxes = job.supervisors()
        return [rng.choice(sandboxes)] if sandboxes else []

    def enough(run: Run, hit: int) -> bool:
        return hit >= count and (sig != signal.SIGKILL or missed(run))

    runs = _lose(job, enough, pause, sig, victims)
    assert "Traceback" not in runs[0].output
    return runs


def missed(run: Run) -> bool:
    """Has the run said that a sandbox is gone?"""
    return (
        "lost, again: the sandbox is" in run.output or "grading failed" in run.output
    )  # gone, closed


def lose_nursery(job: Job, count: int, pause: float) -> list[Run]:
    """SIGKILL to the process that makes the sandboxes."""
    return _lose(job, lambda _, hit: hit >= count, pause, signal.SIGKILL, job.nursery)


def _lose(
    job: Job,
    enough: Callable[[Run, int], bool],
    pause: float,
    sig: int,
    victims: Callable[[], list[int]],
) -> list[Run]:
    """The first as soon as there is one: a whole run takes 2 s on a fast machine."""
    run, hit, wait = job.start(), 0, 0.0
    with until(
        run, lambda: "evaluate" in run.output
    ):  # before, a sandbox only shows that one can be
        pass
    while not enough(run, hit) and not run.ended(wait):
        wait = 0.01
        with suppress(OSError):
            for pid in victims():
                os.kill(pid, sig)
                hit, wait = hit + 1, pause
    assert run.wait(300) == 0 and hit, run.output
    return [run]


def full_disk(arena: Arena, job: Job, disk: Path) -> list[Run]:
    """``disk`` (a file system of some MiB) is full when an episode is written, then when a
    checkpoint is, and then no longer."""
    job.runs = disk / "runs"
    job.overrides.append(f"paths.runs={job.runs}")
    runs = []
    for moment, left, named in (
        (lambda: job.lines() > 2, 0, ".jsonl"),
        (lambda: job.lines() > 3, 96 << 10, "checkpoint"),
    ):
        runs.append(job.start())
        with until(runs[-1], moment):
            fill(disk, left)
        assert runs[-1].wait() == 2, runs[-1].output
        message = runs[-1].output
        assert "the disk is full: " in message and "Traceback" not in message, message
        assert named in message.split("the disk is full: ")[1].split(" cannot")[0], message
        (disk / "filler").unlink()
    return [*runs, job.finish()]


def fill(disk: Path, left: int) -> None:
    """Take all room but ``left`` bytes."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        size = max(0, shutil.disk_usage(disk).free - left)
        while size > 0:
            size -= file.write(bytes(min(size, 4096)))


@contextmanager
def mounted(path: Path) -> Iterator[Path]:
    """A file system of 8 MiB. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def until(run: Run, ready: Callable[[], bool], seconds: float = 120.0) -> Iterator[None]:
    """Waits until ``ready``, while the run goes on."""
    end = time.monotonic() + seconds
    while not ready():
        assert not run.ended(), run.output
        assert time.monotonic() < end, f"it did not get so far:\n{run.output}"
        time.sleep(0.01)
    yield
