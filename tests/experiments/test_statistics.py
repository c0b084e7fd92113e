"""Against values from the literature and from counting by hand."""

from __future__ import annotations

import pytest

from experiments.statistics import mcnemar, rate


def test_wilson_interval_of_known_counts() -> None:
    # Newcombe (1998), table I: Wilson score intervals without continuity correction
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (resolved, n), (low, high) in known.items():
        measured = rate(resolved, n)
        assert (measured.low, measured.high) == pytest.approx((low, high), abs=5e-5)


def test_no_tasks_say_nothing() -> None:
    empty = rate(0, 0)
    assert (empty.rate, empty.low, empty.high) == (0.0, 0.0, 1.0)


def test_exact_mcnemar_counts_discordant_pairs_only() -> None:
    before = {f"both{i}": True for i in range(10)} | {f"new{i}": False for i in range(6)}
    after = {task: True for task in before} | {"never seen before": True}
    result = mcnemar(before, after)
    assert (result.n, result.gained, result.lost) == (16, 6, 0)
    assert result.p == pytest.approx(2 * 0.5**6)
    assert mcnemar(before, before).p == 1.0


def test_exact_mcnemar_both_ways() -> None:
    before = {"a": True, "b": True, **{f"x{i}": False for i in range(10)}}
    after = {"a": False, "b": False, **{f"x{i}": True for i in range(10)}}
    result = mcnemar(before, after)
    # 2 * (C(12,0) + C(12,1) + C(12,2)) / 2^12
    assert result.p == pytest.approx(2 * (1 + 12 + 66) / 4096)
