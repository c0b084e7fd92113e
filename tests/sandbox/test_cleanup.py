"""A killed parent leaves nothing: no process, no mount, no folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sandbox.conftest import PROVIDERS, skip
from tests.sandbox.test_conformance import gone_soon, marked

pytestmark = pytest.mark.sandbox

PARENT = """
import sys, threading
from swe_gym_env.sandbox import SandboxSpec
from tests.sandbox.conftest import PROVIDERS, supervisor
kind, mark = sys.argv[1:]
idle, busy = [PROVIDERS[kind]().create(SandboxSpec("tiny")) for _ in range(2)]
for sandbox in (idle, busy):
    sandbox.exec(f"setsid sleep {mark} & sleep {mark} & echo x > new", timeout=10)
print(supervisor(idle), supervisor(busy), flush=True)
busy.exec(f"sleep {mark}", timeout=1000)
"""


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", list(PROVIDERS))
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_parent_leaves_nothing(kind: str, how: int, tree: Path, tmp_path: Path) -> None:
    if reason := PROVIDERS[kind]().unavailable():
        skip(reason)
    mark, before = f"6{time.time_ns()}", mounts()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, kind, mark],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    supervisors = [int(pid) for pid in parent.stdout.readline().split()]
    end = time.monotonic() + 60
    while len(marked(f"sleep\0{mark}")) < 5 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(marked(f"sleep\0{mark}")) == 5
    parent.send_signal(how)
    parent.wait()
    assert gone_soon(mark, 60)
    end = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in supervisors):
        assert time.monotonic() < end, "a supervisor lives on"
        time.sleep(0.02)
    while mounts() - before and time.monotonic() < end:  # an engine tidies up later
        time.sleep(0.02)
    assert not mounts() - before
    assert list(tmp_path.iterdir()) == []
    parent.stdout.close()
