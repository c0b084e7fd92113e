"""kill -9 of a run, anywhere: what was finished stays, and the next start ends the same."""

from __future__ import annotations

import pytest

from tests.support.chaos.faults import Arena, kill, kills


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(6, marks=pytest.mark.timeout(900)),
        pytest.param(50, marks=[pytest.mark.recorded, pytest.mark.timeout(7200)]),
    ],
)
def test_a_run_killed_anywhere_ends_as_if_nothing_had_happened(arena: Arena, points: int) -> None:
    for at in kills(arena, points):
        job = arena.job()
        runs = kill(arena, job, at)
        cost = arena.cost(job, runs)
        assert cost.harmless, (str(at), cost, runs[-1].output)
