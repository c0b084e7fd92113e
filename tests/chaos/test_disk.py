"""A disk that is full: one message, nothing torn, and with more room the run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.chaos.faults import Arena, full_disk, mounted


@pytest.mark.timeout(600)
def test_a_full_disk_says_so_and_the_run_goes_on_with_more_room(
    arena: Arena, tmp_path: Path
) -> None:
    if os.geteuid():
        pytest.skip("only root mounts a file system of limited size")
    job = arena.job("workers.concurrency=1")  # else all episodes of a round may end at one moment
    with mounted(tmp_path / "disk") as disk:
        job.mounts = {str(disk)}
        cost = arena.cost(job, full_disk(arena, job, disk))
        assert cost.harmless, cost
