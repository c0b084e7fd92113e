"""Compute verdicts again from the logs that `grade` stored, without running anything.

This is for a changed parser or changed lists of tests. A task without a log (nothing was submitted,
the patch did not apply, the time was over) keeps its verdict. A row whose tests would be run in
another way now (image, commit, eval script, environment) is left to `grade`. Adds to
OUT/results.jsonl and writes OUT/report.json again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from swe_gym_env.commands import identity, jobs, selection
from swe_gym_env.commands.grade import Logs, report
from swe_gym_env.errors import GradingError, SetupError
from swe_gym_env.text import shown
from swe_gym_env.types import Outcome, TaskInstance, to_dict


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder that `grade` wrote")
    selection.add_tasks(parser, flag=True)


def run(options: argparse.Namespace) -> int:
    if not (options.out / "results.jsonl").is_file():
        raise SetupError(f"{options.out} holds no results.jsonl: `grade` writes one")
    tasks = selection.load(options)
    results = jobs.Results(options.out)
    logs = Logs(options.out)
    changed, other, found = 0, [], {}
    for task in tasks:
        old = results.last.get(task.instance_id)
        if old is None:
            continue
        if "run" not in old or old["run"] != identity.of_run(task, old["patch_sha256"]):
            other.append(task.instance_id)
            continue
        found[task.instance_id] = old
        stored = logs.read(task.instance_id, old["run"])
        if stored is None:
            continue
        outcome = to_dict(_again(task, *stored))
        if outcome["status"] != old["status"]:
            change = f"{old['status']} -> {outcome['status']} {outcome['reason']}"
            print(shown(f"{task.instance_id}: {change}"))
            changed += 1
        image = old["image"]
        key = identity.of_verdict(task, old["patch_sha256"], old["sandbox"], old["timeout"], image)
        found[task.instance_id] = {**old, **outcome, "seconds": old["seconds"], "key": key}
        results.add(found[task.instance_id])
    report(options.out, tasks, found)
    print(f"{changed} verdicts changed")
    if other:
        print(
            f"{len(other)} not judged again: their rows run other tests now than when they were "
            f"graded ({shown(other[0])} is the first). Give `grade` again for these."
        )
    return 0


def _again(task: TaskInstance, text: str, nonce: str) -> Outcome:
    from swe_gym_env.grading import verdict

    try:
        return verdict(task, text, nonce)
    except GradingError as error:
        return Outcome("infra_error", mask=True, reason=f"grading: {error}")
