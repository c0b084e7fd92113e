"""Ctrl-C once ends a run in order, twice at once; both can be gone on from."""

from __future__ import annotations

import signal

import pytest

from tests.support.chaos.faults import Arena, interrupt, until


@pytest.mark.timeout(600)
@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_leaves_nothing_behind_and_loses_nothing(arena: Arena, twice: bool) -> None:
    job = arena.job()
    cost = arena.cost(job, interrupt(arena, job, 0.5, twice))
    assert cost.harmless, cost


@pytest.mark.timeout(600)
def test_an_episode_that_is_being_scored_is_still_written(arena: Arena) -> None:
    job = arena.job("workers.concurrency=1")
    run = job.start()
    with until(run, lambda: "round 0: collect" in run.output and "5 turns" in run.output):
        run.send(signal.SIGINT)
    assert run.wait() == 130, run.output
    assert "Press Ctrl-C again" in run.output
    assert job.lines() > 2, "the two of the evaluation, and it"
    assert arena.cost(job, [run, job.finish("workers.concurrency=3")]).harmless
