"""A disk that is full: one message, nothing torn, and with more room the run goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import Arena


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid():
        pytest.skip("only root mounts a file system of limited size")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.timeout(600)
def test_a_full_disk_says_so_and_the_run_goes_on_with_more_room(arena: Arena, disk: Path) -> None:
    job = arena.job()
    job.runs = disk / "runs"
    job.overrides += [f"paths.runs={job.runs}"]
    runs, stopped = [], set[str]()
    for size in ("12k", "32k", "64k", "128k", "256k", "512k", "1m", "64m"):
        grow(disk, size)
        runs.append(job.start())
        code = runs[-1].wait()
        if code == 0:
            break
        said = runs[-1].said
        assert code == 2 and "the disk is full: " in said and "MiB free" in said, said
        assert "Traceback" not in said
        stopped.add(Path(said.split("the disk is full: ")[1].split(" cannot")[0]).name)
    assert code == 0 and {"episodes.jsonl", "checkpoint"} <= stopped, stopped
    arena.stage.mounts |= {
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(disk) in line
    }
    cost = arena.cost(job, runs)
    assert cost.harmless, cost
