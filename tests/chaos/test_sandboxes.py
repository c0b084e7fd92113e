"""Sandboxes that die, hang or flood: the episode is played again, or the agent gets a message; no
other."""

from __future__ import annotations

import signal

import pytest

from tests.support.chaos.faults import Arena, lose_nursery, lose_sandboxes, missed


@pytest.mark.timeout(600)
def test_killed_sandboxes_and_their_maker_cost_no_episode(arena: Arena) -> None:
    job = arena.job()
    runs = lose_sandboxes(job, 2, 0.15)
    assert arena.cost(job, runs).harmless, runs[0].output
    assert missed(runs[0]), runs[0].output
    job = arena.job()
    assert arena.cost(job, lose_nursery(job, 2, 0.3)).harmless


@pytest.mark.timeout(600)
def test_a_sandbox_that_hangs_is_ended_and_its_episode_played_again(arena: Arena) -> None:
    job = arena.job()
    runs = lose_sandboxes(job, 1, 0.5, signal.SIGSTOP)
    assert arena.cost(job, runs).harmless, runs[0].output
