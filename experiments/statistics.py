"""The two numbers that every claim of this project must carry: an interval and a paired test.

Held-out sets are small, so a difference of a few points proves little; these functions are the
only place where rates are turned into claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest


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
    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return McNemar(len(shared), gained, lost, p)
