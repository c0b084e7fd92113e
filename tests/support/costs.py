"""Records what each test costs, and prints the most expensive tests and the sum of each tier.

CPU seconds (user and system, with the child processes that ended) are the measure, because wall
time depends on what else the machine does. A fixture counts for the test that needed it first.

``SWE_GYM_TEST_COSTS=FILE`` also keeps all of it, one line per test: CPU seconds, seconds, name.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.tiers import LEFT_OUT, TIERS

EXPENSIVE = 0.5  # CPU seconds from which a test does not belong into the fast tier
SHOWN = 30
PROPERTY = "costs"
_STARTED = pytest.StashKey[tuple[float, float]]()
_elsewhere = 0.0


@dataclass
class Cost:
    """What one test, or all tests of a tier, took so far.

    Attributes:
        cpu: CPU seconds.
        wall: seconds of a clock on the wall.
        tests: how many tests it is of.
        tiers: the markers of the test.
    """

    cpu: float = 0.0
    wall: float = 0.0
    tests: int = 0
    tiers: set[str] = field(default_factory=set)

    def add(self, cpu: float, wall: float) -> None:
        self.cpu += cpu
        self.wall += wall


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
    item.stash[_STARTED] = (cpu_seconds(), time.monotonic())
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to each report (set-up, call, tear-down) what was used since the one before it."""
    report = yield
    cpu, wall = item.stash[_STARTED]
    item.stash[_STARTED] = now = (cpu_seconds(), time.monotonic())
    others = [one for one in report.user_properties if one[0] != PROPERTY]
    report.user_properties = [*others, (PROPERTY, (now[0] - cpu, now[1] - wall))]
    return report


def by_test(reports: Iterable[pytest.TestReport]) -> dict[str, Cost]:
    costs: dict[str, Cost] = defaultdict(lambda: Cost(tests=1))
    for report in reports:
        for kind, value in report.user_properties:
            if kind == PROPERTY and isinstance(value, list | tuple):
                name = report.nodeid.rpartition("@")[0] or report.nodeid  # without xdist's group
                costs[name].add(*value)
                costs[name].tiers = {tier for tier in TIERS if tier in report.keywords}
    return costs


def by_tier(costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """The sum over the tests with the same markers."""
    sums: dict[str, Cost] = defaultdict(Cost)
    for cost in costs.values():
        tier = sums[" + ".join(tier for tier in TIERS if tier in cost.tiers) or "(no marker)"]
        tier.add(cost.cpu, cost.wall)
        tier.tests += cost.tests
    return sums


def lines(costs: Mapping[str, Cost]) -> list[str]:
    """What is printed at the end."""
    tiers = sorted(by_tier(costs).items(), key=lambda one: -one[1].cpu)
    listed = [f"{c.cpu:9.1f}  {c.wall:8.1f}  {c.tests:6}  {name}" for name, c in tiers]
    most = sorted(costs.items(), key=lambda one: -one[1].cpu)[:SHOWN]
    fast = {name: c for name, c in costs.items() if not c.tiers & set(LEFT_OUT)}
    large = sorted((-c.cpu, name) for name, c in fast.items() if c.cpu > EXPENSIVE)
    return [
        f"{'CPU s':>9}  {'wall s':>8}  {'tests':>6}  tier",
        *listed,
        "",
        f"the {len(most)} most expensive tests, in CPU seconds",
        *(f"{cost.cpu:9.1f}  {name}" for name, cost in most),
        "",
        f"{len(large)} tests of the fast tier use more than {EXPENSIVE} CPU seconds: slow?",
        *(f"{-cpu:9.1f}  {name}" for cpu, name in large),
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--costs", action="store_true", help="print the CPU seconds of tests and tiers"
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for key in ("passed", "failed", "skipped", "error", "")
        for report in terminalreporter.stats.get(key, [])
        if isinstance(report, pytest.TestReport)
    ]
    costs = by_test(reports)
    if terminalreporter.config.getoption("--costs"):
        terminalreporter.section("what the tests cost")
        for line in lines(costs):
            terminalreporter.line(line)
    if file := os.environ.get("SWE_GYM_TEST_COSTS"):
        rows = (f"{c.cpu:.2f}\t{c.wall:.2f}\t{name}\n" for name, c in costs.items())
        with Path(file).open("a") as out:
            out.writelines(rows)
