"""Sandboxes that stand ready are taken, and none of them is left over."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.sandbox.warm import WarmProvider
from tests.sandbox.conftest import available, supervisor
from tests.sandbox.test_conformance import run

pytestmark = pytest.mark.sandbox

ONE, TWO = SandboxSpec("tiny"), SandboxSpec("tiny", env={"NUMBER": "2"})


class Counted:
    """A real provider that remembers what it made."""

    name = "counted"

    def __init__(self, inner: SandboxProvider) -> None:
        self.inner, self.made = inner, list[Sandbox]()

    def unavailable(self) -> str | None:
        return None

    def create(self, spec: SandboxSpec) -> Sandbox:
        self.made.append(self.inner.create(spec))
        return self.made[-1]


@pytest.fixture(params=["local", "docker"])
def counted(request: pytest.FixtureRequest, tree: Path) -> Counted:
    return Counted(available(request.param))


def settled(counted: Counted, count: int) -> bool:
    end = time.monotonic() + 20
    while len(counted.made) < count and time.monotonic() < end:
        time.sleep(0.01)
    return len(counted.made) == count


def test_what_is_wanted_next_stands_ready(counted: Counted) -> None:
    warm = WarmProvider(counted, ahead=2)
    warm.prefetch([ONE, TWO, ONE])
    assert settled(counted, 2)
    first, second = warm.create(TWO), warm.create(ONE)
    assert {first, second} == set(counted.made)
    assert run(first, 'echo "[$NUMBER]"') == "[2]\n" and run(second, 'echo "[$NUMBER]"') == "[]\n"
    third = warm.create(ONE)  # none is left: it is made now
    assert third is counted.made[2]
    for sandbox in (first, second, third):
        sandbox.close()
    warm.close()


def test_what_nobody_claims_is_closed_and_what_is_wanted_is_kept(counted: Counted) -> None:
    warm = WarmProvider(counted, ahead=2)
    warm.prefetch([ONE, TWO])
    assert settled(counted, 2)
    warm.prefetch([TWO])
    kept = warm.create(TWO)
    assert kept in counted.made and len(counted.made) == 2
    warm.close()
    (dropped,) = [sandbox for sandbox in counted.made if sandbox is not kept]
    with pytest.raises(SandboxError):
        dropped.exec("true", timeout=5)
    assert run(kept, "echo on") == "on\n"
    kept.close()


def test_sandbox_that_died_while_waiting_is_replaced(counted: Counted) -> None:

    warm = WarmProvider(counted, ahead=1)
    warm.prefetch([ONE])
    assert settled(counted, 1)
    os.kill(supervisor(counted.made[0]), signal.SIGKILL)
    time.sleep(0.3)
    sandbox = warm.create(ONE)
    assert run(sandbox, "echo on") == "on\n"
    sandbox.close()
    warm.close()


def test_a_fault_in_the_making_is_no_fault_of_the_reset(counted: Counted) -> None:
    warm = WarmProvider(counted, ahead=2)
    warm.prefetch([SandboxSpec("no-such-image"), ONE])
    sandbox = warm.create(ONE)
    assert run(sandbox, "echo on") == "on\n"
    sandbox.close()
    warm.close()
