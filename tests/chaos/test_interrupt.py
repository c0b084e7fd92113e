"""Ctrl-C once ends a run in order, twice at once; both can be gone on from."""

from __future__ import annotations

import signal
import time

import pytest

from tests.chaos.driver import Job
from tests.chaos.faults import Arena, until


def lines(job: Job, name: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in job.files(name))


@pytest.mark.timeout(600)
def test_ctrl_c_once_keeps_what_has_ended_and_leaves_nothing(arena: Arena) -> None:
    for share in (0.35, 0.6):
        job = arena.job()
        run = job.start()
        run.ended(share * arena.undisturbed.seconds)
        run.send(signal.SIGINT)
        asked = time.monotonic()
        assert run.wait() == 130, run.said
        assert time.monotonic() - asked < 30
        assert "Press Ctrl-C again" in run.said and "go on with: python -m" in run.said
        assert "Traceback" not in run.said
        assert not job.orphans() and not job.scraps()
        cost = arena.cost(job, [run, job.finish()])
        assert cost.harmless, cost


@pytest.mark.timeout(600)
def test_an_episode_that_is_being_scored_is_still_written(arena: Arena) -> None:
    job = arena.job("workers.concurrency=1", "limits.grading_timeout=60")
    run = job.start()
    with until(run, lambda: "round 0: collect" in run.said and "5 turns" in run.said):
        run.send(signal.SIGINT)
    assert run.wait() == 130, run.said
    assert lines(job, "episodes.jsonl") > 2, "the two of the evaluation, and it"
    assert arena.cost(job, [run, job.finish("workers.concurrency=3")]).harmless


@pytest.mark.timeout(600)
def test_ctrl_c_twice_stops_at_once_in_the_middle_of_a_command(arena: Arena) -> None:
    job = arena.job()
    run = job.start()
    with until(run, lambda: lines(job, "episodes.jsonl") > 2):
        run.send(signal.SIGINT)
        run.ended(0.05)
        run.send(signal.SIGINT)
        asked = time.monotonic()
    assert run.wait() == 130, run.said
    assert time.monotonic() - asked < 10
    assert "go on with: python -m" in run.said and "Traceback" not in run.said
    assert arena.cost(job, [run, job.finish()]).harmless
