"""kill -9 of a run, anywhere: what was finished stays, and the next start ends the same."""

from __future__ import annotations

import pytest

from tests.chaos.faults import Arena, kill, kills

QUICK = 8


@pytest.mark.timeout(900)
def test_a_run_killed_anywhere_ends_as_if_nothing_had_happened(arena: Arena) -> None:
    for at in kills(arena, QUICK):
        job = arena.job()
        runs = kill(arena, job, at)
        cost = arena.cost(job, runs)
        assert cost.harmless, (str(at), cost, runs[-1].said)
