"""Faults that pile up stop the roll-out; those that pass cost no episode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swe_gym_env.errors import EngineError, SandboxError, SetupError
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout import circuit_breaker
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.types import TaskInstance
from tests.rollout.test_driver import play, timeless
from tests.support.toy_tasks import FINISH, FIX, Flaky, copies, real_provider, toy_task

pytestmark = pytest.mark.sandbox


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[TaskInstance]:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return copies(toy_task(tmp_path), 6)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PAUSE", 0.2)
    yield


class Engine:
    """A provider that is down from its ``last``-th sandbox on, for some ``seconds``."""

    name = "engine"

    def __init__(self, inner: SandboxProvider, last: int, seconds: float) -> None:
        self.inner, self.left, self.seconds, self.back = inner, last, seconds, 0.0

    def unavailable(self) -> str | None:
        return None

    def create(self, spec: SandboxSpec) -> Sandbox:
        self.left -= 1
        if self.left == 0:
            self.back = time.monotonic() + self.seconds
        if time.monotonic() < self.back:
            raise EngineError("no Docker Engine answers")
        return self.inner.create(spec)


STUDENT = ScriptedPolicy([FIX, FINISH], "student")


@pytest.mark.slow
def test_an_engine_that_comes_back_costs_no_episode_and_no_attempt(tasks, caplog) -> None:  # type: ignore[no-untyped-def]
    whole = play(tasks, real_provider("process"), mixer=StudentOnly(), student=STUDENT)
    engine = Engine(real_provider("process"), 4, 0.8)
    with caplog.at_level("INFO"):
        played = play(tasks, engine, mixer=StudentOnly(), student=STUDENT, concurrency=3)  # type: ignore[arg-type]
    assert timeless(played) == timeless(whole), "graded, and as a first attempt"
    assert "engine faults in a row (no Docker Engine answers)" in caplog.text
    assert caplog.text.count("the engine faults are over") == 1


def test_one_that_does_not_come_back_ends_the_roll_out_with_the_reason(tasks) -> None:  # type: ignore[no-untyped-def]
    engine = Engine(real_provider("process"), 1, 1000)
    with pytest.raises(SetupError, match=r"4 faults of the kind 'engine' in a row.*no Docker"):
        play(tasks, engine, mixer=StudentOnly(), student=STUDENT, max_faults=4)  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_sandboxes_dying_ends_it_and_a_few_do_not(tasks) -> None:  # type: ignore[no-untyped-def]
    provider = real_provider("process")
    with pytest.raises(SetupError, match="5 faults of the kind 'sandbox' in a row"):
        play(
            tasks,
            Flaky(provider, dict.fromkeys(range(1000), 0)),
            mixer=StudentOnly(),
            student=STUDENT,
            max_faults=5,
            concurrency=2,
        )
    flaky = Flaky(provider, dict.fromkeys(range(0, 1000, 3), 0))
    played = play(
        tasks,
        flaky,
        mixer=StudentOnly(),
        student=STUDENT,
        max_faults=5,
        concurrency=2,
        retries=9,
        env={"grade": "never"},
    )
    assert [e.stop_reason for e, _ in played] == ["finished"] * 6


def test_what_fails_at_the_same_time_counts_once() -> None:
    row = circuit_breaker.CircuitBreaker(3)
    began = time.monotonic()
    for _ in range(64):
        row.add("sandbox", "the sandbox is gone", began)
    assert row.count == 1 and row.pause() == 0
    row.add("sandbox", "the sandbox is gone", time.monotonic())
    assert row.count == 2 and row.pause() > 0
    row.success()
    assert row.count == 0 and row.pause() == 0
    with pytest.raises(SetupError, match="no room"):
        for _ in range(3):
            row.add(SandboxError.cause, "no room", time.monotonic())
