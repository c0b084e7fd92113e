"""The intervals of the measures: Wilson's for a share of episodes, a bootstrap for all else.

Turns and tokens of one episode are no independent draws, so what is counted in them is resampled by
whole episodes (the cluster bootstrap; Davison and Hinkley 1997, section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from experiments.results.statistics import rate

RESAMPLES = 2000
Interval = tuple[float | None, float | None, float | None]


def share(hits: int, n: int) -> Interval:
    """The share and its 95 % Wilson interval; all None where n is 0."""
    if not n:
        return None, None, None
    found = rate(hits, n)
    return found.rate, found.low, found.high


def ratio(sums: Sequence[float], counts: Sequence[float]) -> Interval:
    """sum(``sums``) / sum(``counts``), one entry of each per episode, and its 95 % percentile
    bootstrap interval over episodes. All None where nothing was counted; no interval where the
    episodes do not differ (or there is one): the bootstrap would claim a certainty that is none."""
    pairs = [(s, c) for s, c in zip(sums, counts, strict=True) if c]
    if not pairs:
        return None, None, None
    above, below = np.array(pairs, dtype=float).T
    mean = float(above.sum() / below.sum())
    if np.ptp(above / below) == 0:
        return mean, None, None
    found = bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        random_state=0,
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (mean, None, None) if math.isnan(low) else (mean, low, high)


def clustered_share(hits: Sequence[int], counts: Sequence[int]) -> Interval:
    """As :func:`ratio` of ``hits`` among ``counts`` yes-or-no's of each episode. Where all or none
    are hits, the interval is Wilson's with each episode counted once."""
    found, low, high = ratio(hits, counts)
    if low is None and found in (0.0, 1.0):
        return share(round(found) * len(counts), len(counts))
    return found, low, high


def difference(
    one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> Interval:
    """sum / count of ``other`` less that of ``one``, (sum, count) pairs of unlike episodes, and the
    percentile bootstrap interval, each resampled by itself."""
    first, second = np.array(one, dtype=float), np.array(other, dtype=float)

    def apart(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        means = [part[..., 0].sum(axis) / part[..., 1].sum(axis) for part in (first[a], second[b])]
        return means[1] - means[0]

    places = np.arange(len(first)), np.arange(len(second))
    found = float(apart(*places))
    if min(len(first), len(second)) < 2:
        return found, None, None
    interval = bootstrap(
        places,
        apart,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        random_state=0,
    ).confidence_interval
    return found, float(interval.low), float(interval.high)


def mean(values: Sequence[float]) -> Interval:
    """Of one value per episode or task."""
    return ratio(values, [1.0] * len(values))
