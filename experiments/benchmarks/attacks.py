"""Attacks on the grading: the verdict of swebench's own harness beside ours.

    python -m experiments.benchmarks.attacks [FILE.md]

Measured: for each attack of `tests/support/attacks.py`, whether it is graded as resolved. Each is
graded twice in a `local` sandbox: once with the steps of `swebench.harness.run_evaluation` (its
ways to apply a patch, its eval script with the exit code recorded, its `get_eval_report` on the
log), and once by `swe_gym_env.grading.grade`. The last rows are attacks that no guard can decide
(`docs/reference/grading.md`). The result is a Markdown table.

It needs a checkout and the extra `swebench`, and no Docker.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from swe_gym_env import paths
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import SandboxProvider, SandboxSpec, provider
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.types import TaskInstance

SECONDS = 20.0
UNDO = "git checkout -- . ; git clean -fdq"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help="also write the table to this file")
    args = parser.parse_args()
    from swe_gym_env.tasks.pypi import fetch
    from swe_gym_env.tasks.pypi.catalog import PYTEST
    from tests.support.attacks import ATTACKS, LIMITS, Attack, make_task

    env = fetch.environment_for("tiny", PYTEST)
    store = paths.home()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "envs").symlink_to(store / "envs")
        os.environ["SWE_GYM_HOME"] = folder
        task = make_task(home, str(home / "envs" / env.name))
        sandboxes = provider("local")
        gold = Attack("(none: the gold patch)", patch=lambda task: task.gold_patch)
        lines = ["| attack | swebench | ours | our reason |", "|---|---|---|---|"]
        for attack in (gold, *ATTACKS, *LIMITS):
            patch = attack.run(task, sandboxes)
            theirs = official(task, patch, sandboxes)
            ours = grade(task, patch, sandboxes, timeout=SECONDS)
            reason = " ".join(ours.reason.replace("|", "/").split())[:90]
            name = f"{attack.name} (known limit)" if attack in LIMITS else attack.name
            lines.append(f"| {name} | {theirs} | {ours.status} | {reason} |")
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    if args.file:
        args.file.write_text(text)
    print(text)


def official(task: TaskInstance, patch: str, sandboxes: SandboxProvider) -> str:
    """The verdict of swebench's harness on ``patch``: its steps, in one of our sandboxes."""
    from swebench.harness.grading import get_eval_report
    from swebench.harness.run_evaluation import GIT_APPLY_CMDS
    from swebench.harness.utils import make_test_spec

    spec = make_test_spec(to_row(task))
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
