"""Cost of a step and a reset: ours against mini-swe-agent's and SWE-ReX's Docker environments.

    pip install mini-swe-agent swe-rex          # the peers; without them only ours is measured
    python -m experiments.benchmarks.sandbox_speed [--rex-image IMAGE] [--rounds 5] [--steps 40]

Measured: milliseconds of a step, a reset with and without a prepared sandbox, and writing and
reading 10 MB. Ours are measured at ``SWEEnv`` (including parsing, budgets and the observation),
the peers at their environment's own call. All use the same image in the same process and take
turns, so that noise affects them equally. SWE-ReX needs an image that contains ``swerex-remote``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swe_gym_env.env import SWEEnv
from swe_gym_env.sandbox import SandboxProvider, SandboxSpec, images, provider
from swe_gym_env.sandbox.warm import WarmProvider
from swe_gym_env.types import TaskInstance

COMMAND, BLOB = "echo hi", os.urandom(10_000_000)
SETTLE = 3.0  # seconds in which a container engine cleans up before the next measurement
Times = dict[str, list[float]]


def milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def task(home: Path) -> TaskInstance:
    """A repository of one file, as an image of the local store."""
    tree = images.path_of("bench") / "tree"
    tree.mkdir(parents=True)
    (tree / "a.py").write_text("x = 1\n")
    git = "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm start"
    git += " && git rev-parse HEAD"
    head = subprocess.run(git, shell=True, cwd=tree, check=True, capture_output=True, text=True)
    images.save("bench", images.Image(env={"PATH": "/usr/local/bin:/usr/bin:/bin"}))
    commit = head.stdout.strip()
    return TaskInstance("bench", "a/b", commit, "bench", "x", "", "", ("t",), (), "true")


def ours(kind: str, task: TaskInstance, steps: int) -> Times:
    """Measure our environment, with and without sandboxes that are created ahead."""
    plain = provider(kind)
    warm = WarmProvider(plain, ahead=1)
    env = SWEEnv([task], sandbox=plain, max_turns=10**6, max_repeats=10**6, grade="never")
    times: Times = {"cold reset": [milliseconds(env.reset)]}
    turn = f"```bash\n{COMMAND}\n```"
    assert env.step(turn)[0].startswith("hi")
    times["step"] = [milliseconds(lambda: env.step(turn)) for _ in range(steps)]
    sandbox = env.sandbox
    assert sandbox is not None
    times["write 10 MB"] = [milliseconds(lambda: sandbox.write("/tmp/blob", BLOB))]
    times["read 10 MB"] = [milliseconds(lambda: sandbox.read("/tmp/blob"))]
    env.close()
    env = SWEEnv([task], sandbox=warm, grade="never")
    times["warm reset"] = []
    for _ in range(4):
        warm.prefetch([SandboxSpec.of(task)])
        time.sleep(1.0)  # the time in which a model would generate a turn
        times["warm reset"].append(milliseconds(env.reset))
        env.close()
    warm.close()
    return times


def mini_swe_agent(image: str, steps: int) -> Times:
    from minisweagent.environments.docker import DockerEnvironment

    envs: list[Any] = []
    start = milliseconds(lambda: envs.append(DockerEnvironment(image=image, cwd="/testbed")))
    env = envs[0]
    try:
        assert env.execute({"command": COMMAND})["output"] == "hi\n"
        action = {"command": COMMAND}
        return {
            "cold reset": [start],
            "step": [milliseconds(lambda: env.execute(action)) for _ in range(steps)],
        }
    finally:
        subprocess.run(["docker", "rm", "-f", env.container_id], capture_output=True)


async def swe_rex(image: str, steps: int) -> dict[str, Times]:
    from swerex.deployment.docker import DockerDeployment
    from swerex.runtime.abstract import (
        BashAction,
        Command,
        CreateBashSessionRequest,
        ReadFileRequest,
        WriteFileRequest,
    )

    deployment = DockerDeployment(image=image, pull="never")
    started = time.perf_counter()
    await deployment.start()
    runtime = deployment.runtime
    await runtime.create_session(CreateBashSessionRequest())
    session: Times = {"cold reset": [1000 * (time.perf_counter() - started)], "step": []}
    execute: Times = {"step": []}
    try:
        for _ in range(steps):
            started = time.perf_counter()
            seen = await runtime.run_in_session(BashAction(command=COMMAND))
            session["step"].append(1000 * (time.perf_counter() - started))
            assert seen.output.strip() == "hi"
            started = time.perf_counter()
            await runtime.execute(Command(command=COMMAND, shell=True))
            execute["step"].append(1000 * (time.perf_counter() - started))
        text = BLOB.hex()[: len(BLOB)]  # SWE-ReX transfers text only
        started = time.perf_counter()
        await runtime.write_file(WriteFileRequest(path="/tmp/blob", content=text))
        session["write 10 MB"] = [1000 * (time.perf_counter() - started)]
        started = time.perf_counter()
        await runtime.read_file(ReadFileRequest(path="/tmp/blob"))
        session["read 10 MB"] = [1000 * (time.perf_counter() - started)]
    finally:
        await deployment.stop()
    return {"SWE-ReX session": session, "SWE-ReX execute": execute}


def measure(args: argparse.Namespace, home: Path) -> dict[str, Times]:
    bench = task(home)
    docker: SandboxProvider = provider("docker")
    docker.create(SandboxSpec.of(bench)).close()  # builds the image
    from swe_gym_env.sandbox.docker.image import ensure

    image = ensure(docker.api, "bench")  # type: ignore[attr-defined]
    measured: dict[str, Times] = {}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        part = {"ours, local": ours("local", bench, args.steps)}
        time.sleep(SETTLE)
        part["ours, docker"] = ours("docker", bench, args.steps)
        time.sleep(SETTLE)
        with optional("minisweagent"):
            part["mini-swe-agent"] = mini_swe_agent(image, args.steps)
            time.sleep(SETTLE)
        with optional("swerex"):
            if args.rex_image:
                part |= asyncio.run(swe_rex(args.rex_image, args.steps))
                time.sleep(SETTLE)
        for name, times in part.items():
            for what, values in times.items():
                measured.setdefault(name, {}).setdefault(what, []).extend(values)
    return measured


@contextmanager
def optional(module: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        print(f"{module} is not installed and is left out", file=sys.stderr)


def table(measured: dict[str, Times]) -> str:
    columns = ("step", "warm reset", "cold reset", "write 10 MB", "read 10 MB")
    lines = ["| | step p50 | p95 | " + " | ".join(columns[1:]) + " | step, relative to ours |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    base = statistics.median(measured["ours, docker"]["step"])
    for name, times in measured.items():
        step = times["step"]
        cells = [f"{statistics.median(step):.1f}", f"{statistics.quantiles(step, n=20)[-1]:.1f}"]
        cells += [f"{statistics.median(times[c]):.0f}" if c in times else "-" for c in columns[1:]]
        cells.append(f"{statistics.median(step) / base:.1f} x")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="per round and environment")
    parser.add_argument("--rex-image", help="an image with swerex-remote, for SWE-ReX")
    parser.add_argument("--json", help="write the raw milliseconds here")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWE_GYM_HOME"] = folder
        measured = measure(args, Path(folder))
    if args.json:
        Path(args.json).write_text(json.dumps(measured))
    print(table(measured))


if __name__ == "__main__":
    main()
