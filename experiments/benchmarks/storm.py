"""A storm of kill -9: what do sandboxes leave behind when the process that made them is shot?

    python -m experiments.benchmarks.storm --sandbox local --kills 50
    python -m experiments.benchmarks.storm --sandbox docker --kills 30

Each victim starts sandboxes and commands in them without end and is killed at a random moment, so
that some die while a sandbox is being made. Prints what is there afterwards and was not there
before.
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
SETTLE = 15.0  # seconds in which an engine may still tidy up


def there(mark: str) -> dict[str, set[str]]:
    """Processes of the storm, mounts, folders in the temporary folder, containers."""
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
        provider(args.sandbox).create(SandboxSpec("storm")).close()  # an image is made once
        before = there(mark)
        for _ in range(args.kills):
            command = [sys.executable, "-c", VICTIM, args.sandbox, mark]
            victim = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.3, 2.5))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        end = time.monotonic() + SETTLE
        while time.monotonic() < end and any(_more(before, there(mark)).values()):
            time.sleep(0.2)
        left = _more(before, there(mark))
    counts = ", ".join(f"{count} {what}" for what, count in left.items())
    print(f"{args.sandbox}: after {args.kills} kills there are left: {counts}")


def _more(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, int]:
    return {what: len(after[what] - before[what]) for what in before}


if __name__ == "__main__":
    main()
