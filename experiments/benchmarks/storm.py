"""What sandboxes leave behind when the process that created them is killed.

    python -m experiments.benchmarks.storm --sandbox local --kills 50
    python -m experiments.benchmarks.storm --sandbox docker --kills 30

Measured: processes, mounts, folders and containers that exist after many kill -9 and did not exist
before. Each victim creates sandboxes and starts commands in them without pause, and is killed at a
random moment, so that some die while a sandbox is being created.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swe_gym_env.sandbox import SandboxSpec, images, provider
from swe_gym_env.sandbox.docker import DockerProvider
from swe_gym_env.sandbox.docker.leftovers import LABEL

VICTIM = """
import sys, threading
from swe_gym_env.sandbox import SandboxSpec, provider
sandboxes = provider(sys.argv[1])
def play():
    sandbox = sandboxes.create(SandboxSpec("storm"))
    sandbox.exec(f"setsid sleep {sys.argv[2]} & sleep {sys.argv[2]}", timeout=60)
while True:
    threading.Thread(target=play).start()
    threading.Event().wait(0.1)
"""
SETTLE = 15.0  # seconds in which a container engine may still clean up


def existing(mark: str) -> dict[str, set[str]]:
    """Processes whose command line contains ``mark``, mounts, temporary folders, containers."""
    processes = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", name, "cmdline").read_bytes():
                processes.add(name)
        except OSError:
            continue
    docker = DockerProvider()
    containers = set()
    if docker.unavailable() is None:
        labeled = docker.api.containers(all=True, filters={"label": f"{LABEL}=sandbox"})
        containers = {container["Id"] for container in labeled}
    return {
        "processes": processes - {str(os.getpid())},
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "folders": set(os.listdir(tempfile.gettempdir())),
        "containers": containers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sandbox", default="local", choices=("local", "docker", "process"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, mark = random.Random(args.seed), f"5{time.time_ns()}"
    with tempfile.TemporaryDirectory() as home:
        os.environ["SWE_GYM_HOME"] = home
        tree = images.path_of("storm") / "tree"
        tree.mkdir(parents=True)
        (tree / "a.py").write_text("x = 1\n")
        images.save("storm", images.Image())
        provider(args.sandbox).create(SandboxSpec("storm")).close()  # builds the image once
        before = existing(mark)
        for _ in range(args.kills):
            command = [sys.executable, "-c", VICTIM, args.sandbox, mark]
            victim = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.3, 2.5))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        end = time.monotonic() + SETTLE
        while time.monotonic() < end and any(_more(before, existing(mark)).values()):
            time.sleep(0.2)
        left = _more(before, existing(mark))
    counts = ", ".join(f"{count} {what}" for what, count in left.items())
    print(f"{args.sandbox}: left after {args.kills} kills: {counts}")


def _more(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, int]:
    return {what: len(after[what] - before[what]) for what in before}


if __name__ == "__main__":
    main()
