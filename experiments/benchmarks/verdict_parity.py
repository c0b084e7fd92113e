"""Whether our verdicts and those of swebench's harness ever differ, on the same Docker images.

    python -m experiments.benchmarks.verdict_parity pypi --limit 3
    python -m experiments.benchmarks.verdict_parity swebench_verified --options '{"build": "sdist"}'

Measured: for each task, the verdicts of both on four patches (the gold patch, an empty one, a
harmless one that fixes nothing, and the gold patch with a syntax error), and the seconds that each
took. One line per task.

It needs Docker and the extra `swebench`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from swe_gym_env import tasks
from swe_gym_env.grading import diff, grade
from swe_gym_env.sandbox import SandboxSpec, images
from swe_gym_env.sandbox.docker import DockerProvider
from swe_gym_env.sandbox.docker.image import ensure
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.types import TaskInstance

IDLE = (
    "diff --git a/NOTES.parity b/NOTES.parity\nnew file mode 100644\n--- /dev/null\n"
    "+++ b/NOTES.parity\n@@ -0,0 +1 @@\n+nothing\n"
)


@dataclass(frozen=True)
class Verdicts:
    """Both verdicts on one patch.

    Attributes:
        instance_id: The task.
        patch: Which of the four patches.
        official: Whether swebench's harness says resolved.
        ours: Whether we say resolved.
        status: Our status.
        official_seconds: Time of the harness.
        our_seconds: Time of ours.
    """

    instance_id: str
    patch: str
    official: bool
    ours: bool
    status: str
    official_seconds: float
    our_seconds: float


def patches(task: TaskInstance, provider: DockerProvider) -> dict[str, str]:
    """The four patches by name."""
    sandbox = provider.create(SandboxSpec.of(task))
    try:
        sandbox.write(
            f"{task.workdir}/gold.patch", task.gold_patch.encode("utf-8", "surrogateescape")
        )
        apply = "git apply gold.patch && rm gold.patch && git diff --name-only | grep -m1 'py$'"
        done = sandbox.exec(apply, timeout=60, cwd=task.workdir)
        file = done.output.decode().strip()
        assert done.exit_code == 0 and file, done.output
        sandbox.exec(f"printf '\\n((\\n' >> '{file}'", timeout=60, cwd=task.workdir)
        broken = diff(sandbox, task)
    finally:
        sandbox.close()
    return {"gold": task.gold_patch, "empty": "", "idle": IDLE, "broken": broken}


def official_row(task: TaskInstance, image: str) -> dict[str, Any]:
    """The row of a task for swebench's harness, with its Docker image."""
    row = {**to_row(task), "image": image}
    if task.log_parser == "pytest":  # our parser reads the same lines more strictly
        row["log_parser"] = "parse_log_pytest"
    return row


def official(task: TaskInstance, patch: str, image: str, client: Any, timeout: float) -> bool:
    """The verdict of swebench's ``run_instance``, which writes its logs to the working folder."""
    from swebench.harness.run_evaluation import run_instance
    from swebench.harness.utils import make_test_spec

    prediction = {
        "instance_id": task.instance_id,
        "model_name_or_path": "parity",
        "model_patch": patch,
    }
    run_id = f"parity-{time.time_ns()}"  # new each time: its cache ignores the patch
    result = run_instance(
        make_test_spec(official_row(task, image)),
        prediction,
        client,
        run_id,
        int(timeout),
        skip_patch=not patch,
    )
    report = result[1] if isinstance(result, tuple) else None
    return bool(report and report[task.instance_id]["resolved"])


def compare(chosen: list[TaskInstance], timeout: float = 600) -> Iterator[Verdicts]:
    """Yield the four verdicts of each task, one after another."""
    import docker

    provider = DockerProvider()
    client = docker.from_env(timeout=int(timeout) + 60)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for task in chosen:
            stored = images.exists(task.image)
            image = ensure(provider.api, task.image, task.workdir) if stored else task.image
            for name, patch in patches(task, provider).items():
                started = time.monotonic()
                theirs = official(task, patch, image, client, timeout)
                between = time.monotonic()
                outcome = grade(task, patch, provider, timeout=timeout)
                ended = time.monotonic()
                yield Verdicts(
                    task.instance_id,
                    name,
                    theirs,
                    outcome.resolved,
                    outcome.status,
                    between - started,
                    ended - between,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tasks", help="a task source of swe_gym_env.tasks, or a file of rows")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="options of the source, as JSON"
    )
    parser.add_argument("--split", default="all")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--timeout", type=float, default=600)
    args = parser.parse_args()
    chosen = tasks.load(args.tasks, split=args.split, limit=args.limit, **args.options)
    print("| task | gold | empty | idle | broken | official s | ours s |")
    print("|---" * 7 + "|")
    by_task: dict[str, list[Verdicts]] = {}
    for verdict in compare(chosen, args.timeout):
        row = by_task.setdefault(verdict.instance_id, [])
        row.append(verdict)
        if len(row) == 4:
            cells = [f"{v.official:d}/{v.ours:d}" for v in row]
            times = [statistics.median(v.official_seconds for v in row)]
            times.append(statistics.median(v.our_seconds for v in row[:1] + row[2:]))
            cells += [f"{seconds:.1f}" for seconds in times]
            print(f"| {verdict.instance_id} | {' | '.join(cells)} |", flush=True)
    every = [verdict for row in by_task.values() for verdict in row]
    same = sum(verdict.official == verdict.ours for verdict in every)
    print(f"\n{same} of {len(every)} verdicts are the same (official/ours, 1: resolved)")


if __name__ == "__main__":
    main()
