"""Records what each test costs, and prints the most expensive ones and the sum per tier.

CPU seconds (user and system, with the child processes that ended) are the measure, because wall
time depends on what else the machine does. Fixtures count for the test that needed them first.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import pytest

TIERS = ("sandbox", "docker", "browser", "model", "e2e", "chaos", "vllm", "recorded")
EXPENSIVE = 2.0
"""CPU seconds from which a test without a tier is reported."""
SHOWN = 30
PROPERTY = "costs"


@dataclass
class Cost:
    """What one test, or all tests of a tier, took so far."""

    cpu: float = 0.0
    wall: float = 0.0
    tests: int = 0
    tiers: set[str] = field(default_factory=set)

    def add(self, cpu: float, wall: float) -> None:
        self.cpu += cpu
        self.wall += wall


_elsewhere = 0.0


def elsewhere(cpu: float) -> None:
    """Add the CPU seconds of a process that is not a child of this one."""
    global _elsewhere
    _elsewhere += cpu


def cpu_seconds() -> float:
    """User and system time of this process, of the children that it has waited for, and of what the
    warm interpreter ran for it."""
    return sum(os.times()[:4]) + _elsewhere


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[STARTED] = (cpu_seconds(), time.monotonic())
    return (yield)


STARTED = pytest.StashKey[tuple[float, float]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cpu, wall = item.stash[STARTED]
    item.stash[STARTED] = now = (cpu_seconds(), time.monotonic())
    report.user_properties = [
        *((name, value) for name, value in report.user_properties if name != PROPERTY),
        (PROPERTY, (now[0] - cpu, now[1] - wall)),
    ]
    return report


def by_test(reports: Iterable[pytest.TestReport]) -> dict[str, Cost]:
    costs: dict[str, Cost] = defaultdict(lambda: Cost(tests=1))
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY:
                costs[report.nodeid].add(*value)
                costs[report.nodeid].tiers = {tier for tier in TIERS if tier in report.keywords}
    return costs


def by_tier(costs: dict[str, Cost]) -> dict[str, Cost]:
    """A test with several tiers counts once, as the set of its tiers."""
    sums: dict[str, Cost] = defaultdict(Cost)
    for cost in costs.values():
        tier = sums["+".join(t for t in TIERS if t in cost.tiers) or "no tier"]
        tier.add(cost.cpu, cost.wall)
        tier.tests += 1
    return sums


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        r
        for key in ("passed", "failed", "skipped", "")
        for r in terminalreporter.stats.get(key, [])
        if isinstance(r, pytest.TestReport)
    ]
    costs = by_test(reports)
    out = os.environ.get("SWE_GYM_TEST_COSTS")
    if out:
        with open(out, "a") as f:
            for name, c in costs.items():
                f.write(f"{c.cpu:.2f}\t{c.wall:.2f}\t{name}\n")
