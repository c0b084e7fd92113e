"""What is Docker's own: the limits that the engine was given, and what root may not do in there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox import SandboxSpec, provider
from swe_gym_env.sandbox.docker import DockerProvider, DockerSandbox
from swe_gym_env.sandbox.docker.leftovers import LABEL, abandoned, labels
from tests.sandbox.conftest import _maker
from tests.sandbox.test_conformance import run

pytestmark = pytest.mark.docker


@pytest.fixture
def sandbox(tree: Path) -> Iterator[DockerSandbox]:
    for make in _maker("docker"):
        made = make(memory=256 << 20, processes=40, cpus=0.5)
        assert isinstance(made, DockerSandbox)
        yield made


def test_the_engine_was_given_every_limit(sandbox: DockerSandbox) -> None:
    container = sandbox._api.inspect_container(sandbox.container)
    host = container["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["Memory"] == host["MemorySwap"] == 256 << 20
    assert (host["CpuQuota"], host["CpuPeriod"]) == (50_000, 100_000)
    assert host["PidsLimit"] == 40
    assert host["AutoRemove"] and not host["Privileged"] and not host["Binds"]
    assert container["Config"]["Labels"][LABEL] == "sandbox"
    status = run(sandbox, "cat /proc/self/status")
    assert int(status.split("CapEff:")[1].split()[0], 16) == 0b1011  # chown, dac_override, fowner
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


def test_root_in_the_sandbox_is_not_root_outside(sandbox: DockerSandbox) -> None:
    refused = [
        "mknod /tmp/disk b 254 0",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "mount -t tmpfs none /mnt",
        "unshare -r true",
        "chroot / true",
        "kill -9 1 && sleep 0.2 && ! kill -0 1",
        "kill -STOP 1 && sleep 0.2 && grep -q 'State:.T' /proc/1/status",
        "head -c1 /proc/1/environ | grep -q .",
        "echo x > /proc/1/fd/1",
        "head -c1 /proc/1/mem",
        "hostname other",
        "date -s 2001-01-01",
        "cat /dev/mem | head -c1 | grep -q .",
        "ls /var/run/docker.sock",
        "ip link add dummy0 type dummy",
    ]
    for command in refused:
        assert sandbox.exec(f"({command}) 2>/dev/null", timeout=10).exit_code != 0, command
    assert run(sandbox, "echo on") == "on\n"


def test_process_1_reaps_orphans(sandbox: DockerSandbox) -> None:
    run(sandbox, "for i in 1 2 3 4 5; do (setsid sleep 0.1 &) ; done")
    time.sleep(0.5)
    assert run(sandbox, "grep -l 'State:.Z' /proc/[0-9]*/status | wc -l") == "0\n"


def test_an_image_without_python_says_so(sandbox: DockerSandbox) -> None:
    sandbox.exec("rm -f /usr/bin/python3*", timeout=10)
    sandbox._api.commit(sandbox.container, "swe-gym-env/no-python")
    try:
        with pytest.raises(SetupError, match=r"no Python 3.9 or newer in this image"):
            provider("docker").create(SandboxSpec("swe-gym-env/no-python"))
    finally:
        sandbox._api.remove_image("swe-gym-env/no-python", force=True)


def test_no_engine_is_one_sentence(tmp_path: Path) -> None:
    reason = DockerProvider(f"unix://{tmp_path}/none.sock").unavailable()
    assert reason and "DOCKER_HOST" in reason and "\n" not in reason


def test_removed_container_is_a_sandbox_error(sandbox: DockerSandbox) -> None:
    sandbox._api.remove_container(sandbox.container, force=True)
    with pytest.raises(SandboxError):
        sandbox.exec("true", timeout=5)


def test_labels_identify_abandoned_containers() -> None:
    ours = labels()
    assert not abandoned(ours)
    code = "from swe_gym_env.sandbox.docker.leftovers import labels; print(labels())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert abandoned(eval(done.stdout))
    assert abandoned({**ours, f"{LABEL}.expires": "1"})


STORM = """
import sys, threading
from swe_gym_env.sandbox import SandboxSpec, provider
docker = provider("docker")
def play():
    docker.create(SandboxSpec("tiny")).exec("sleep 9", timeout=20)
while True:
    threading.Thread(target=play).start()
    threading.Event().wait(0.2)
"""


def test_a_storm_of_kills_leaves_nothing(tree: Path) -> None:
    """Killed at any moment, also while the engine is making a container."""
    api = provider("docker").api  # type: ignore[attr-defined]
    pids = []
    for moment in (0.7, 0.9, 1.1, 1.4, 1.9):
        parent = subprocess.Popen([sys.executable, "-c", STORM], stderr=subprocess.DEVNULL)
        time.sleep(moment)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        pids.append(parent.pid)

    def left() -> list[str]:
        found = api.containers(all=True, filters={"label": f"{LABEL}=sandbox"})
        return [
            c["State"] for c in found if int(c["Labels"][f"{LABEL}.owner"].split(":")[1]) in pids
        ]

    end = time.monotonic() + 15
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    assert left() == []
