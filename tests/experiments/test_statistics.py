"""Against other libraries, closed forms, the literature and counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats import contingency_tables as peer
from statsmodels.stats.proportion import proportion_confint

from experiments.results.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mcnemar,
    pass_at_k,
    pass_at_k_rate,
    rate,
)


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


def test_wilson_and_mcnemar_as_statsmodels_has_them() -> None:
    for resolved, n in [(0, 7), (3, 11), (40, 56), (56, 56), (161, 200)]:
        ours = rate(resolved, n)
        theirs = proportion_confint(resolved, n, method="wilson")
        assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-12)
    rng = np.random.default_rng(1)
    for chance in (0.2, 0.5, 0.9):
        before = {str(i): bool(rng.random() < 0.4) for i in range(60)}
        after = {str(i): bool(rng.random() < chance) for i in range(60)}
        table = [[0, 0], [0, 0]]
        for task in before:
            table[before[task]][after[task]] += 1
        assert mcnemar(before, after).p == pytest.approx(peer.mcnemar(table, exact=True).pvalue)


def test_bootstrap_of_tasks_as_scipy_has_it() -> None:
    rng = np.random.default_rng(2)
    before, after = (rng.random((2, 80)) < [[0.3], [0.5]]).astype(float)
    ours, difference = bootstrap_mean(after), bootstrap_difference(after, before)
    for interval, values in ((ours, after), (difference, after - before)):
        theirs = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
        ).confidence_interval
        assert interval.mean == pytest.approx(values.mean())
        assert (interval.low, interval.high) == pytest.approx(theirs, abs=0.0126)  # one task
    assert ours == bootstrap_mean(after)  # seeded
    assert ours.p is None and difference.p is not None
    # with one row of binary values the share beyond 0 is also near the test of the mean
    assert difference.p == pytest.approx(
        scipy.stats.ttest_1samp(after - before, 0).pvalue, abs=0.02
    )


def test_two_levels_have_the_variance_of_both() -> None:
    # Where a cell is the sum of its seed's and its task's effect, the variance of the resampled
    # mean is exactly var(seeds) / S + var(tasks) / T (variances with divisor S and T)
    rng = np.random.default_rng(3)
    seeds, tasks = rng.normal(0, 0.1, 12), rng.normal(0, 0.4, 50)
    wide = bootstrap_mean(seeds[:, None] + tasks)
    spread = np.sqrt(seeds.var() / 12 + tasks.var() / 50)
    assert (wide.high - wide.low) / (2 * 1.96) == pytest.approx(spread, rel=0.03)
    # the tasks' effects cancel in the paired difference, the seeds' do not
    paired = bootstrap_difference(0.2 + seeds[:, None] + tasks, np.tile(tasks, (12, 1)))
    assert paired.mean == pytest.approx(0.2 + seeds.mean())
    assert (paired.high - paired.low) / (2 * 1.96) == pytest.approx(seeds.std() / 12**0.5, rel=0.06)


def test_separate_seeds_are_drawn_separately() -> None:
    rng = np.random.default_rng(4)
    one, other, tasks = rng.normal(0, 0.2, 9), rng.normal(0, 0.1, 5), rng.normal(0, 1, 40)
    apart = bootstrap_difference(one[:, None] + tasks, other[:, None] + tasks, paired_seeds=False)
    spread = np.sqrt(one.var() / 9 + other.var() / 5)
    assert (apart.high - apart.low) / (2 * 1.96) == pytest.approx(spread, rel=0.05)
    assert apart.mean == pytest.approx(one.mean() - other.mean())
    with pytest.raises(ValueError, match="other seeds"):
        bootstrap_difference(np.ones((9, 4)), np.ones((5, 4)))
    with pytest.raises(ValueError, match="other tasks"):
        bootstrap_difference(np.ones((2, 4)), np.ones((2, 5)))


def test_faults_are_left_out() -> None:
    measured = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, np.nan]])
    assert bootstrap_mean(measured).mean == pytest.approx(2 / 3)
    after = np.array([[np.nan, 1.0, 1.0], [1.0, 1.0, 0.0]])
    assert bootstrap_difference(after, measured).mean == pytest.approx(0.5)  # cells that both have
    with pytest.raises(ValueError, match="nothing was measured"):
        bootstrap_mean([[np.nan, np.nan]])


def test_equal_methods_differ_with_p_1_and_certain_ones_with_the_least_p() -> None:
    same = np.eye(4)
    assert bootstrap_difference(same, same).p == 1.0
    certain = bootstrap_difference(np.ones((4, 30)), np.zeros((4, 30)), resamples=999)
    assert (certain.mean, certain.low, certain.high) == (1.0, 1.0, 1.0)
    assert certain.p == pytest.approx(2 / 1000)


def test_all_or_none_resolved_is_no_certainty() -> None:
    for value in (0, 1):
        alike = np.full((3, 56), float(value))
        alike[:, 50:] = np.nan
        found, wilson = bootstrap_mean(alike), rate(50 * value, 50)
        assert (found.mean, found.low, found.high) == (value, wilson.low, wilson.high)
    none = pass_at_k_rate([(8, 0)] * 20, 4)
    assert none.mean == none.low == 0 and none.high == pytest.approx(rate(0, 20).high)


@pytest.mark.slow
def test_the_interval_of_two_levels_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held, trials = np.random.default_rng(5), 0, 250
    for trial in range(trials):  # 10 seeds, 40 tasks, an effect of each, and a coin for each cell
        level = 0.4 + rng.normal(0, 0.05, (10, 1)) + rng.normal(0, 0.15, (1, 40))
        found = bootstrap_mean(rng.random((10, 40)) < level, resamples=400, seed=trial)
        held += found.low <= 0.4 <= found.high
    assert 0.91 <= held / trials <= 0.995


@pytest.mark.slow
def test_holm_of_a_known_example() -> None:
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_pass_at_k_is_the_share_of_draws_with_a_success() -> None:
    for n, c, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (7, 3, 5), (4, 1, 4)]:
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
        share = sum(map(any, draws)) / len(draws)
        assert pass_at_k(n, c, k) == pytest.approx(share)
    # and the product by which its authors compute it
    n, c, k = 200, 37, 10
    assert pass_at_k(n, c, k) == pytest.approx(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))
    with pytest.raises(ValueError, match="pass@4 of 1 resolved in 3"):
        pass_at_k(3, 1, 4)
    measured = pass_at_k_rate([(4, 4), (4, 0), (4, 2), (1, 1)], 2)  # the last has too few
    assert measured.mean == pytest.approx((1 + 0 + 5 / 6) / 3)
    assert measured.low == 0.0 and measured.high == 1.0
