"""Tiers of tests by what they need, and a guard: a test that uses a part without its marker fails.

A marker comes from what a test asks for, where that is certain (a fixture, a parameter), and is
written down elsewhere (``pytestmark`` of its file, as a rule). The fast tier leaves out all tests
with a marker of ``LEFT_OUT``, so that it runs on any machine with Python and a Linux kernel, in the
time that one waits for it: a test that takes more than about a quarter of a second of CPU is
``slow``, and ``sampled(n)`` makes all but the first n cases of a test slow. ``--costs`` lists the
tests of the fast tier that have become too expensive for it.

The guard observes the test process. It sees sandboxes, containers, servers outside this machine,
the embedded model and processes of our commands, whichever function asked for them. Processes that
a test starts do not see a Docker Engine unless the test is marked ``docker``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

TIERS = (
    "sandbox",
    "docker",
    "browser",
    "model",
    "e2e",
    "chaos",
    "vllm",
    "recorded",
    "network",
    "slow",
)
LEFT_OUT = TIERS[1:]
OF_FIXTURE = {
    "smollm2": "model",
    "auto_dtype": "model",
    "browser": "browser",
    "job": "e2e",
    "arena": "chaos",
    "interpreter": "chaos",
    "pip_environment": "network",
    "make": "sandbox",
    "make_isolated": "sandbox",
    "make_local": "sandbox",
}
LOOPBACK = ("127.", "::1", "localhost")
NO_ENGINE = "unix:///no-docker-engine-for-a-test-without-the-marker"
# A test with a marker of the second kind may use the first without another marker
IMPLIED = {
    "sandbox": {"docker", "e2e", "chaos", "vllm", "recorded"},
    "e2e": {"chaos", "vllm", "recorded"},
    "model": {"vllm"},
}
_used: set[str] = set()


def used(need: str) -> None:
    """Note that the test that runs now uses a part with this name."""
    _used.add(need)


def missing(item: pytest.Item) -> list[str]:
    """The markers that the test lacks for what it has used."""
    marked = {mark.name for mark in item.iter_markers()}
    return sorted(n for n in _used if not marked & {n, *IMPLIED.get(n, ())})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: Counter[str] = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            cases[name := item.nodeid.partition("[")[0]] += 1
            if cases[name] > sampled.args[0]:
                item.add_marker("slow")
        for name in getattr(item, "fixturenames", ()):
            if name in OF_FIXTURE:
                item.add_marker(OF_FIXTURE[name])
        if "docker" in getattr(getattr(item, "callspec", None), "params", {}).values():
            item.add_marker("docker")
        # What shares an engine runs in one worker; else a file does, for its fixtures
        group = "docker" if any(item.iter_markers("docker")) else item.nodeid.partition("::")[0]
        if not any(item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_order)  # stable: a file stays together, except for its marked tests


def _order(item: pytest.Item) -> int:
    """Long tests first, so that two workers end at about the same time."""
    marked = {mark.name for mark in item.iter_markers()}
    long = ("e2e", "chaos", "model", "docker", "browser")
    return next((at for at, tier in enumerate(long) if tier in marked), len(long))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _used.clear()
    engine = os.environ.get("DOCKER_HOST")
    if not any(item.iter_markers("docker")):
        os.environ["DOCKER_HOST"] = NO_ENGINE
    try:
        return (yield)
    finally:
        os.environ.pop("DOCKER_HOST", None)
        if engine is not None:
            os.environ["DOCKER_HOST"] = engine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown" and report.passed and (lacks := missing(item)):
        problem = (
            f"{item.nodeid} uses what its markers do not say: add pytest.mark.{', '.join(lacks)} "
            "(tests/support/tiers.py)"
        )
        if "docker" in item.config.option.markexpr:  # a tier was chosen, which this test breaks
            report.outcome, report.longrepr = "failed", problem
        else:
            item.warn(pytest.PytestWarning(problem))
    return report


def pytest_configure() -> None:
    from swe_gym_env.sandbox.local import LocalProvider
    from swe_gym_env.sandbox.process import ProcessProvider

    for provider in (LocalProvider, ProcessProvider):
        provider.create = _noted(provider.create)  # type: ignore[method-assign]
    sys.addaudithook(_observe)


def _noted(create: Any) -> Any:
    def create_and_note(*args: Any, **options: Any) -> Any:
        used("sandbox")
        return create(*args, **options)

    return create_and_note


def _observe(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        words = [os.fsdecode(w) for w in args[1] if isinstance(w, str | bytes | os.PathLike)]
        if any(word.startswith(("experiments.", "torch.distributed.run")) for word in words):
            used("e2e")
        if words and os.path.basename(words[0]) in ("docker", "dockerd"):
            used("docker")
        if words and os.path.basename(words[0]).startswith("chromium"):
            used("browser")
    elif event == "socket.connect":
        address = args[1]
        if isinstance(address, str | bytes):
            if os.fsdecode(address).endswith("docker.sock"):
                used("docker")
        elif isinstance(address[0], str) and not address[0].startswith(LOOPBACK):
            used("network")
    elif event == "open" and isinstance(args[0], str) and "/models/smollm2-135m/" in args[0]:
        used("model")
