"""Every number that a claim of this project rests on: rates, intervals, paired tests.

Held-out sets are small and seeds are few, so a difference of some points proves little; this is
the only module that computes an interval or a p value. Intervals are of 95 %. All resampling is
seeded, so that a function returns the same numbers at each call.

Shares of episodes have Wilson intervals. Turns and tokens of one episode are no independent draws,
so what is counted in them is resampled by whole episodes (the cluster bootstrap; Davison and
Hinkley 1997, section 2.4). Several seeds and tasks are resampled in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
CLUSTER_RESAMPLES = 2000  # of whole episodes
TAILS = (0.025, 0.975)

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None, float | None]  # a mean, and the ends of its interval


@dataclass(frozen=True)
class Rate:
    """``resolved`` of ``n`` episodes, with the 95 % Wilson interval. All zero where n is 0."""

    resolved: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.resolved / self.n if self.n else 0.0

    def __str__(self) -> str:
        return f"{self.rate:.1%} ({self.low:.1%} to {self.high:.1%})"


def rate(resolved: int, n: int) -> Rate:
    if n == 0:
        return Rate(0, 0, 0.0, 1.0)
    from scipy.stats import binomtest  # late: it takes 0.7 s, and many readers need none

    interval = binomtest(resolved, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Rate(resolved, n, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class McNemar:
    """Two policies on the same ``n`` tasks: tasks that only one of them resolved, and the exact
    two-sided p that both are equally good. p is 1 where they never disagree."""

    n: int
    gained: int
    lost: int
    p: float


def mcnemar(before: Mapping[str, bool], after: Mapping[str, bool]) -> McNemar:
    """``before`` and ``after`` map a task to whether it was resolved; only shared tasks count."""
    shared = before.keys() & after.keys()
    gained = sum(after[task] and not before[task] for task in shared)
    lost = sum(before[task] and not after[task] for task in shared)
    from scipy.stats import binomtest

    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return McNemar(len(shared), gained, lost, p)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; of a difference also ``p``, the two-sided one that
    there is none."""

    mean: float
    low: float
    high: float
    p: float | None = None

    def __str__(self) -> str:
        tested = "" if self.p is None else f", p = {self.p:.2g}"
        return f"{self.mean:.1%} ({self.low:.1%} to {self.high:.1%}{tested})"


def bootstrap_mean(matrix: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of ``matrix`` (seeds x tasks, or tasks alone), as it would be with other seeds and
    other tasks: both are drawn again, independently of each other (Owen 2007, the pigeonhole
    bootstrap), and the interval is between percentiles.

    NaN is a cell that was not measured (an infrastructure fault); it counts nowhere. ValueError
    where no cell was. Where all cells are 0, or all are 1, no resample differs, which is no
    certainty: the interval is Wilson's, each task counted once.
    """
    rng = np.random.default_rng(seed)
    values = _checked(matrix)
    if (common := np.nanmin(values)) == np.nanmax(values) and common in (0, 1):
        tasks = int((~np.isnan(values)).any(axis=0).sum())
        certain = rate(round(common) * tasks, tasks)
        return Interval(certain.rate, certain.low, certain.high)
    drawn = _resampled(
        values, _draws(rng, values.shape[0], resamples), _tasks(rng, values, resamples)
    )
    return _interval(float(np.nanmean(values)), drawn)


def bootstrap_difference(
    after: ArrayLike,
    before: ArrayLike,
    *,
    paired_seeds: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """``after`` minus ``before``, two methods on the same tasks in the same order, by the bootstrap
    of :func:`bootstrap_mean`.

    Rows are the same seeds in the same order: a drawn seed is drawn for both, and a cell that one
    of them lacks counts for neither. With ``paired_seeds=False`` each has separate seeds, as many
    as it likes, and only the tasks are drawn for both.

    ``p`` is the least at which the interval of that confidence would leave out 0: twice the smaller
    share of resamples at or beyond it, with the one that was observed (Davison and Hinkley 1997,
    section 4.2.3). It cannot be below 2 / (``resamples`` + 1).
    """
    rng = np.random.default_rng(seed)
    one, other = _checked(after), _checked(before)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"other tasks: {one.shape[1]} and {other.shape[1]} columns")
    if paired_seeds:
        if one.shape != other.shape:
            raise ValueError(f"other seeds: {one.shape[0]} and {other.shape[0]} rows")
        values = _checked(one - other)
        seeds, tasks = _draws(rng, values.shape[0], resamples), _tasks(rng, values, resamples)
        drawn = _resampled(values, seeds, tasks)
        return _interval(float(np.nanmean(values)), drawn, tested=True)
    tasks = _tasks(rng, one, resamples)
    drawn = _resampled(one, _draws(rng, one.shape[0], resamples), tasks)
    drawn = drawn - _resampled(other, _draws(rng, other.shape[0], resamples), tasks)
    return _interval(float(np.nanmean(one) - np.nanmean(other)), drawn, tested=True)


def _checked(matrix: ArrayLike) -> Floats:
    values = np.atleast_2d(np.asarray(matrix, dtype=float))
    if values.ndim != 2 or np.isnan(values).all():
        raise ValueError("nothing was measured: seeds x tasks, with a number in some cell")
    return values


def _draws(rng: np.random.Generator, n: int, resamples: int) -> Floats:
    """How often each of ``n`` was drawn, in ``n`` draws: resamples x n."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _tasks(rng: np.random.Generator, values: Floats, resamples: int) -> Floats:
    return _draws(rng, values.shape[1], resamples)


def _resampled(values: Floats, seeds: Floats, tasks: Floats) -> Floats:
    """The mean of the measured cells in each resample. NaN where a resample has none."""
    measured = ~np.isnan(values)
    total = ((seeds @ np.where(measured, values, 0.0)) * tasks).sum(axis=1)
    count = ((seeds @ measured.astype(float)) * tasks).sum(axis=1)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _interval(mean: float, drawn: Floats, tested: bool = False) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    low, high = (float(tail) for tail in np.quantile(drawn, TAILS))
    if not tested:
        return Interval(mean, low, high)
    beyond = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    return Interval(mean, low, high, min(1.0, 2 * float(beyond + 1) / (len(drawn) + 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """The p of several tests, corrected for their number (Holm 1979), in the same order."""
    from statsmodels.stats.multitest import multipletests  # late: it brings pandas

    return [float(p) for p in multipletests(ps, method="holm")[1]] if ps else []


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of ``k`` samples at least one resolves, where ``c`` of ``n`` did: 1 -
    C(n - c, k) / C(n, k), without bias (Chen et al. 2021, Evaluating Large Language Models Trained
    on Code)."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {c} resolved in {n} samples: 0 <= c <= n and 1 <= k <= n")
    from scipy.stats import hypergeom

    return float(hypergeom.sf(0, n, c, k))


def pass_at_k_rate(counts: Sequence[tuple[int, int]], k: int, *, seed: int = 0) -> Interval:
    """pass@k over tasks, each given as (n, c); the interval is by bootstrap over the tasks. Tasks
    with fewer than ``k`` samples are left out; ValueError where all are."""
    return bootstrap_mean([pass_at_k(n, c, k) for n, c in counts if n >= k], seed=seed)


def average(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known, without an interval; None if there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def share(hits: int, n: int) -> Bounds:
    """The share and its 95 % Wilson interval; all None where n is 0."""
    if not n:
        return None, None, None
    found = rate(hits, n)
    return found.rate, found.low, found.high


def ratio(sums: Sequence[float], counts: Sequence[float]) -> Bounds:
    """sum(``sums``) / sum(``counts``), one entry of each per episode, and its 95 % percentile
    bootstrap interval over episodes. All None if nothing was counted; no interval if the episodes
    do not differ (or there is only one): the bootstrap would claim a certainty that is none."""
    pairs = [(s, c) for s, c in zip(sums, counts, strict=True) if c]
    if not pairs:
        return None, None, None
    above, below = np.array(pairs, dtype=float).T
    mean = float(above.sum() / below.sum())
    if np.ptp(above / below) == 0:
        return mean, None, None
    from scipy.stats import bootstrap

    found = bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=CLUSTER_RESAMPLES,
        random_state=0,
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (mean, None, None) if math.isnan(low) else (mean, low, high)


def clustered_share(hits: Sequence[int], counts: Sequence[int]) -> Bounds:
    """As :func:`ratio` of ``hits`` among ``counts`` yes-or-no's of each episode. Where all or none
    are hits, the interval is Wilson's with each episode counted once."""
    found, low, high = ratio(hits, counts)
    if low is None and found in (0.0, 1.0):
        return share(round(found) * len(counts), len(counts))
    return found, low, high


def difference(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> Bounds:
    """sum / count of ``other`` minus that of ``one``, both pairs (sum, count) of unlike episodes,
    and its percentile bootstrap interval; each of the two is resampled independently."""
    first, second = np.array(one, dtype=float), np.array(other, dtype=float)

    def apart(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        means = [part[..., 0].sum(axis) / part[..., 1].sum(axis) for part in (first[a], second[b])]
        return means[1] - means[0]

    places = np.arange(len(first)), np.arange(len(second))
    found = float(apart(*places))
    if min(len(first), len(second)) < 2:
        return found, None, None
    from scipy.stats import bootstrap

    interval = bootstrap(
        places,
        apart,
        vectorized=True,
        method="percentile",
        n_resamples=CLUSTER_RESAMPLES,
        random_state=0,
    ).confidence_interval
    return found, float(interval.low), float(interval.high)


def mean(values: Sequence[float]) -> Bounds:
    """The mean of one value for each episode or task, and its bootstrap interval."""
    return ratio(values, [1.0] * len(values))
