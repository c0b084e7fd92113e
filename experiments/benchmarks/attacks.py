"""Attacks on the grading: the verdict of swebench's own harness beside ours.

    python -m experiments.benchmarks.attacks [FILE.md]
    python -m experiments.benchmarks.attacks --packages 5 [FILE.md]

Measured: for each attack of `tests/support/attacks.py`, whether it is graded as resolved. Each is
graded in a `local` sandbox: with the steps of `swebench.harness.run_evaluation` (its ways to apply
a patch, its eval script with the exit code recorded, its `get_eval_report` on the log), and by
`swe_gym_env.grading.grade`, without and with the second run (`counterfactual.py`). The last row is
an attack that no guard can decide (`docs/reference/grading.md`). With `--packages`, the generic
attacks are appended to the faulty modules of real packages instead (one task each of `tasks=pypi`),
beside the gold patch, and the seconds that the second run adds are printed. The result is a
Markdown table.

It needs a checkout and the extra `swebench`, and no Docker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from swe_gym_env import paths, tasks
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import SandboxProvider, SandboxSpec, provider
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.types import TaskInstance

SECONDS = 60.0
UNDO = "git checkout -- . ; git clean -fdq"
HEAD = ["| attack | swebench | ours, one run | ours | our reason |", "|---|---|---|---|---|"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help="also write the table to this file")
    parser.add_argument("--packages", type=int, default=0, metavar="N", help="real packages")
    args = parser.parse_args()
    sandboxes = provider("local")
    lines = list(HEAD)
    added = list[float]()
    for name, task, patch in _packages(args.packages) if args.packages else _toys(sandboxes):
        lines.append(_row(name, task, patch, sandboxes, added))
        print(lines[-1], file=sys.stderr, flush=True)
    if added:
        ordered = sorted(added)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
        lines += ["", f"Seconds that the second run added to the {len(added)} that were resolved: "]
        lines[-1] += f"median {statistics.median(added):.1f}, 95th percentile {p95:.1f}."
    text = "\n".join(lines) + "\n"
    if args.file:
        args.file.write_text(text)
    print(text)


def _row(
    name: str, task: TaskInstance, patch: str, sandboxes: SandboxProvider, added: list[float]
) -> str:
    theirs = official(task, patch, sandboxes)
    started = time.monotonic()
    once = grade(task, patch, sandboxes, timeout=SECONDS, counterfactual=False)
    middle = time.monotonic()
    ours = grade(task, patch, sandboxes, timeout=SECONDS)
    if ours.resolved:
        added.append(max(0.0, time.monotonic() - middle - (middle - started)))
    reason = " ".join(ours.reason.replace("|", "/").split())[:90]
    return f"| {name} | {theirs} | {once.status} | {ours.status} | {reason} |"


def _toys(sandboxes: SandboxProvider) -> Iterator[tuple[str, TaskInstance, str]]:
    from swe_gym_env.tasks.pypi import fetch
    from swe_gym_env.tasks.pypi.catalog import PYTEST
    from tests.support.attacks import ATTACKS, LIMITS, Attack, make_tasks

    env = fetch.environment_for("tiny", PYTEST)
    store = paths.home()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "envs").symlink_to(store / "envs")
        os.environ["SWE_GYM_HOME"] = folder
        suites = make_tasks(home, str(home / "envs" / env.name))
        gold = Attack("(none: the gold patch)", patch=lambda task: task.gold_patch)
        for attack in (gold, *ATTACKS, *LIMITS):
            task = suites[attack.suite]
            name = f"{attack.name} (known limit)" if attack in LIMITS else attack.name
            yield name, task, attack.run(task, sandboxes)


def _packages(count: int) -> Iterator[tuple[str, TaskInstance, str]]:
    """The generic attacks on the first task of each of ``count`` packages."""
    from tests.support.generic_cheats import FUNCTION_CHEATS, PYTEST_CHEATS

    first = dict[str, TaskInstance]()
    for task in tasks.load("pypi", split="all"):
        if "." not in task.metadata["function"]:  # not a method: the cheats replace a function
            first.setdefault(task.metadata["package"], task)
    for package, task in list(first.items())[:count]:
        yield f"{package}: (none: the gold patch)", task, task.gold_patch
        cheats = {n: code for n, code in PYTEST_CHEATS.items() if "add(" not in code}
        cheats |= {
            name: code.replace("NAME", task.metadata["function"])
            for name, code in FUNCTION_CHEATS.items()
        }
        for name, code in cheats.items():
            yield f"{package}: {name}", task, _appended(task, code)


def _appended(task: TaskInstance, code: str) -> str:
    """A patch that appends ``code`` to the faulty module."""
    from tests.support.attacks import Attack

    name = task.metadata["file"]
    sandbox = provider("local").create(SandboxSpec.of(task))
    try:
        text = sandbox.read(f"{task.workdir}/{name}").decode()
    finally:
        sandbox.close()
    return Attack("", {name: f"{text}\n{code}"}).run(task, provider("local"))


def official(task: TaskInstance, patch: str, sandboxes: SandboxProvider) -> str:
    """The verdict of swebench's harness on ``patch``: its steps, in one of our sandboxes."""
    from swebench.harness.grading import get_eval_report
    from swebench.harness.run_evaluation import GIT_APPLY_CMDS
    from swebench.harness.utils import make_test_spec

    parser = "parse_log_pytest" if task.log_parser == "pytest" else task.log_parser
    spec = make_test_spec(to_row(replace(task, log_parser=parser)))
    sandbox = sandboxes.create(SandboxSpec(task.image, task.workdir, task.env))
    try:
        sandbox.write("/tmp/patch.diff", patch.encode("utf-8", "surrogateescape"))
        for attempt, command in enumerate(GIT_APPLY_CMDS):
            if attempt:
                sandbox.exec(UNDO, timeout=SECONDS)
            if sandbox.exec(f"{command} /tmp/patch.diff", timeout=SECONDS).exit_code == 0:
                break
        else:
            return "no patch applied"
        sandbox.write("/tmp/eval.sh", spec.eval_script.encode("utf-8", "surrogateescape"))
        done = sandbox.exec("/bin/bash /tmp/eval.sh", timeout=SECONDS)
    finally:
        sandbox.close()
    if done.timed_out:
        return "error (timeout)"
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write(done.output)
        file.flush()
        prediction = {"instance_id": task.instance_id, "model_patch": patch}
        report = get_eval_report(spec, prediction, file.name, include_tests_status=False)
    return "**resolved**" if report[task.instance_id]["resolved"] else "unresolved"


if __name__ == "__main__":
    main()
