"""The attempts of ``attempts.py``, beside a sandbox next door that goes on working and a host that
is looked over before and after.

An attempt runs in every provider that promises what it is about, and nowhere else: a provider that
isolates nothing never sees those that would harm this machine.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox import LIMITS, ExecResult, Sandbox
from tests.sandbox.attempts import ATTEMPTS, PRELUDE, Attempt
from tests.sandbox.conftest import ISOLATING, PROVIDERS, Make, _maker
from tests.sandbox.test_conformance import gone_soon, marked

pytestmark = pytest.mark.sandbox

SETTINGS = ("core_pattern", "modprobe", "hostname", "domainname", "sysrq", "panic", "ctrl-alt-del")
WATCHED = ("/etc/passwd", "/etc/shadow", "/etc/ld.so.preload", "/etc/cron.d", "/usr/bin/env")
# `local-copy` has the walls of `local`, and another file system in them
CASES = [
    (kind, attempt)
    for kind in PROVIDERS
    for attempt in ATTEMPTS
    if (kind in ISOLATING and (kind != "local-copy" or attempt.guarantee == "disk"))
    or attempt.guarantee == "output"
]


class Host:
    """What lies outside and must stay as it is."""

    def __init__(self, stack: ExitStack, image: Path) -> None:
        self.secret, self.image = secrets.token_hex(12), image
        folder = stack.enter_context(TemporaryDirectory(prefix="swe-gym-host-", dir="/tmp"))
        os.chmod(folder, 0o777)
        self.folder, self.file = Path(folder), Path(folder, "secret")
        self.file.write_text(self.secret)
        self.file.chmod(0o666)
        env = {**os.environ, "SECRET": self.secret}
        self.victim = subprocess.Popen(["sleep", "1000"], env=env)
        stack.callback(lambda: (self.victim.kill(), self.victim.wait()))
        self.abstract = f"swe-gym-{self.secret[:6]}"
        kinds = (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)
        unix = (socket.AF_UNIX, socket.SOCK_STREAM)
        self.open = [stack.enter_context(socket.socket(*kind)) for kind in (*kinds, unix, unix)]
        places = ("127.0.0.1", 0), ("127.0.0.1", 0), f"\0{self.abstract}", f"{folder}/socket"
        for one, place in zip(self.open, places, strict=True):
            one.bind(place)
            one.setblocking(False)
            if one.type == socket.SOCK_STREAM:
                one.listen()

    def facts(self, mark: str) -> dict[str, object]:
        """What an attempt knows of the host. The secret is no part of it."""
        return {
            "mark": mark,
            "file": str(self.file),
            "folder": str(self.folder),
            "pid": self.victim.pid,
            "parent": os.getpid(),
            "port": self.open[0].getsockname()[1],
            "udp": self.open[1].getsockname()[1],
            "address": socket.gethostname(),
            "abstract": self.abstract,
            "unix": f"{self.folder}/socket",
        }

    def state(self) -> dict[str, object]:
        """Everything that an attempt could have changed."""
        settings = {name: _text(Path("/proc/sys/kernel", name)) for name in SETTINGS}
        files = [p for p in (*self.image.rglob("*"), *map(Path, WATCHED), self.folder)]
        stats = {str(p): (s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns) for p, s in _stats(files)}
        return {
            "settings": settings,
            "files": stats,
            "secret": self.file.read_text(),
            "folder": sorted(os.listdir(self.folder)),
            "interfaces": [name for _, name in socket.if_nameindex() if "escape" in name],
            "victim": self.victim.poll(),
            "called": [_called(one) for one in self.open],
        }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _stats(paths: list[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def _called(listening: socket.socket) -> bool:
    try:
        if listening.type == socket.SOCK_DGRAM:
            listening.recv(1)
        else:
            listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@dataclass
class Place:
    """A provider, and a neighboring sandbox with other files and processes."""

    make: Make
    sandbox: Sandbox = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.sandbox = self.make()
        keep = "echo mine > kept; echo shared > /dev/shm/kept 2>/dev/null || true; sleep 1000 & "
        self.pid = self.sandbox.exec(f"{keep} echo $!", timeout=20).output.decode().strip()

    def step(self) -> None:
        self.steps += 1
        command = f"kill -0 {self.pid} && cat a.py kept && git status --short && echo {self.steps}"
        done = self.sandbox.exec(command, timeout=60)
        assert done.output.decode() == f"x = 1\nmine\n?? kept\n{self.steps}\n"


@pytest.fixture(scope="module")
def host(tree: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(stack, tree)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tree: Path) -> Iterator[Place]:
    for make in _maker(request.param):
        yield Place(make)


def promised(sandbox: Sandbox, attempt: Attempt) -> bool:
    declared = sandbox.guarantees[attempt.guarantee]
    return declared == "hard" or (
        attempt.best_effort
        and declared == "best effort"
        and sandbox.guarantees["isolation"] == "hard"
    )


def carry_out(sandbox: Sandbox, attempt: Attempt, facts: dict[str, object]) -> ExecResult | None:
    """None where the sandbox did not survive it."""
    script = (
        PRELUDE.format(host=json.dumps(facts)) + attempt.script + "\nprint('escaped:', escaped)"
    )
    sandbox.write("/testbed/attempt.py", script.encode())
    command = f"python3 /testbed/attempt.py {facts['mark']}"
    try:
        return sandbox.exec(command, timeout=attempt.seconds)
    except SandboxError:
        return None


def watch(running: Future[ExecResult | None], place: Place, mark: str) -> int:
    """The sandbox next door works meanwhile. The most processes seen at once."""
    most = 0
    while True:
        place.step()
        most = max(most, len(marked(mark)))
        if running.done():
            return most


def test_attempts_are_many_and_about_every_promise() -> None:
    assert len({attempt.name for attempt in ATTEMPTS}) == len(ATTEMPTS) >= 24
    tested = {attempt.guarantee for attempt in ATTEMPTS}
    assert tested <= set(LIMITS) and tested >= set(LIMITS) - {"cpu"}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("place", "attempt"), CASES, ids=lambda v: getattr(v, "name", str(v)), indirect=["place"]
)
def test_attempt(place: Place, attempt: Attempt, host: Host) -> None:
    sandbox = place.make(**attempt.limits)
    try:
        if not promised(sandbox, attempt):
            return  # nothing is claimed, and it would harm this machine
        mark = f"5{time.time_ns()}"
        facts, before = host.facts(mark), host.state()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(carry_out, sandbox, attempt, facts)
            most = watch(running, place, mark)
        result = running.result()
        if attempt.guarantee == "processes":
            assert most <= attempt.limits["processes"]
        if attempt.guarantee == "time":
            assert gone_soon(mark)
        if result is not None:
            assert result.output.startswith(b"begun\n")
            assert host.secret.encode() not in result.output
            verdict = result.output.decode(errors="replace").rpartition("escaped:")[2].strip()
            assert attempt.dies or verdict == "[]", result.output[-2000:]
            assert b"escaped: ['" not in result.output
            if attempt.look:
                attempt.look(sandbox, result, {**facts, "secret": host.secret})
        assert result is not None or attempt.dies
    finally:
        sandbox.close()
    assert gone_soon(mark)
    assert mark not in Path("/proc/self/mounts").read_text()
    assert host.state() == before
    place.step()
