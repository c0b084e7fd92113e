"""The Docker daemon is killed in mid-round and comes back: every episode is there, and no
sandbox."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.sandbox.docker import DockerProvider
from swe_gym_env.types import Episode, TaskInstance
from tests.support.chaos.engine import Engine, engine
from tests.support.toy_tasks import FINISH, FIX, LOOK, copies

pytestmark = [pytest.mark.chaos, pytest.mark.docker]

TAG = "swe-gym-chaos:toy"
EVAL = """cd /testbed
echo '>>>>> Start Test Output'
echo '=== short test summary info ==='
python3 -c "import calc; print(['FAILED', 'PASSED'][calc.add(1, 2) == 3], 'test_calc.py::test_add')"
echo '=== 1 passed in 0.01s ==='
echo '>>>>> End Test Output'
"""
SLOW = "```bash\nsleep 0.5; ls\n```"


@pytest.fixture
def own() -> Iterator[Engine]:
    if os.geteuid() or not shutil.which("dockerd"):
        pytest.skip("a Docker Engine of our own needs root and dockerd")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,  # a short path
        engine(Path(folder, "engine")) as started,
    ):
        yield started


def play(own: Engine, tasks: list[TaskInstance], done: list[str]) -> dict[str, Any]:
    provider, found = DockerProvider(own.address), dict[str, Any]()

    def keep(episode: Episode, _: object) -> None:
        done.append(episode.episode_id)
        turns = [(turn.observation, turn.text) for turn in episode.turns]
        outcome = (episode.outcome.status, episode.outcome.reason)
        found[episode.episode_id] = (turns, outcome, episode.patch)

    rollout(
        [Request(task) for task in tasks],
        make_env=lambda task: SWEEnv([task], sandbox=provider, grade="deferred"),
        student=ScriptedPolicy([LOOK, SLOW, FIX, SLOW, FINISH]),
        mixer=StudentOnly(),
        annotate=False,
        concurrency=3,
        on_episode=keep,
    )
    return found


@pytest.mark.timeout(600)
def test_a_killed_daemon_costs_no_episode(own: Engine, caplog: pytest.LogCaptureFixture) -> None:
    commit = own.toy_image(TAG)
    task = TaskInstance(
        *("toy-1", "toy/calc", commit, TAG, "add(1, 2) returns -1.", "", ""),
        fail_to_pass=("test_calc.py::test_add",),
        pass_to_pass=(),
        eval_script=EVAL,
    )
    tasks = copies(task, 6)
    whole = play(own, tasks, [])
    assert [outcome for _, outcome, _ in whole.values()] == [("resolved", "")] * 6
    assert gone_soon(own)

    done: list[str] = []

    def outage() -> None:
        while not done:
            time.sleep(0.05)
        own.kill()
        time.sleep(3.0)
        own.start()

    breaking = threading.Thread(target=outage)
    breaking.start()
    with caplog.at_level("INFO", "swe_gym_env"):
        found = play(own, tasks, done)
    breaking.join()
    assert found == whole and len(done) == 6
    assert "engine faults in a row" in caplog.text and "faults are over" in caplog.text
    assert gone_soon(own)


def gone_soon(own: Engine) -> bool:
    end = time.monotonic() + 60
    while own.sandboxes() and time.monotonic() < end:  # an engine tidies up after the fact
        time.sleep(0.2)
    return not own.sandboxes()
