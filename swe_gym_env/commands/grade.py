"""Grade predictions in the format of SWE-bench; test logs are stored and can be judged again.

PREDICTIONS: {instance_id, model_name_or_path, model_patch}, as .jsonl, or .json with a list or a
mapping. Writes OUT/results.jsonl (one line for each finished task), OUT/logs/INSTANCE.log with its
marker beside it, and OUT/report.json. If it is killed or interrupted, the same command continues
with the missing tasks. A task is graded again if its row, its patch, the kind of sandbox, the time
limit or the code that grades has changed since, or if its sandboxes failed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from swe_gym_env.commands import identity, jobs, predictions, selection
from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance, to_dict

STATUSES = ("resolved", "unresolved", "empty_patch", "timeout", "tampered", "infra_error")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS")
    selection.add_tasks(parser, flag=True)
    selection.add_sandboxes(parser)
    parser.add_argument("--out", type=Path, default=Path("graded"), metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    patches = predictions.read(options.predictions)
    tasks = selection.load(options)
    sandboxes = selection.provider(options)
    chosen = [task for task in tasks if task.instance_id in patches]
    if not chosen:
        raise SetupError(f"no prediction in {options.predictions} is for one of these tasks")
    results = jobs.Results(options.out)
    logs = Logs(options.out)
    hashes = {name: identity.of_patch(patch) for name, patch in patches.items()}

    def key(task: TaskInstance) -> str:
        image = identity.of_image(task.image, sandboxes)
        patch = hashes[task.instance_id]
        return identity.of_verdict(task, patch, sandboxes.name, options.timeout, image)

    def job(task: TaskInstance) -> jobs.Result:
        name = task.instance_id
        run = identity.of_run(task, hashes[name])
        logs.remove(name)  # a run that leaves none must not find that of another patch
        outcome = jobs.graded(
            task,
            patches[name],
            sandboxes,
            timeout=options.timeout,
            on_log=lambda text, nonce: logs.write(name, text, nonce, run),
        )
        about = {"patch_sha256": hashes[name], "run": run, "key": key(task)}
        about |= {"sandbox": sandboxes.name, "timeout": options.timeout}
        about["image"] = identity.of_image(task.image, sandboxes)
        return {"instance_id": name, **about, **to_dict(outcome)}

    def fits(task: TaskInstance) -> bool:
        result = results.found.get(key(task), {"status": "infra_error"})
        return result["status"] != "infra_error"

    todo = [task for task in chosen if not fits(task)]
    jobs.run(todo, job, results, options.workers, lambda result: result["status"])
    found = {task.instance_id: results.of(key(task), task.instance_id) for task in chosen}
    unknown = len(set(patches) - {task.instance_id for task in tasks})
    report(options.out, tasks, found, unknown)
    return 0


class Logs:
    """OUT/logs: a test log for each task, and beside it the nonce that is part of its markers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "logs"
        self._folder.mkdir(parents=True, exist_ok=True)

    def _paths(self, instance_id: str) -> tuple[Path, Path]:
        name = quote(instance_id, safe="")
        return self._folder / f"{name}.log", self._folder / f"{name}.json"

    def write(self, instance_id: str, text: str, nonce: str, run: str) -> None:
        log, marker = self._paths(instance_id)
        log.write_bytes(text.encode("utf-8", "surrogateescape"))
        marker.write_text(json.dumps({"nonce": nonce, "run": run}))

    def read(self, instance_id: str, run: str) -> tuple[str, str] | None:
        """Log and nonce of ``run``.

        None if there is no such log, because the tests did not end or it is of another patch.
        """
        log, marker = self._paths(instance_id)
        try:
            about = json.loads(marker.read_text())
            if about.get("run", run) != run:
                return None
            return log.read_bytes().decode("utf-8", "surrogateescape"), about["nonce"]
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def remove(self, instance_id: str) -> None:
        for path in self._paths(instance_id):
            path.unlink(missing_ok=True)


def report(
    folder: Path,
    tasks: Sequence[TaskInstance],
    found: Mapping[str, Mapping[str, Any]],
    unknown: int = 0,
) -> None:
    """Print the table of outcomes, and write it with the ids under the official report's keys."""
    counts = Counter(result["status"] for result in found.values())
    ids = {status: [n for n, r in found.items() if r["status"] == status] for status in STATUSES}
    missing = [task.instance_id for task in tasks if task.instance_id not in found]
    print(f"{len(tasks):6}  tasks, {len(found)} with a prediction")
    for status in STATUSES:
        if counts[status] or status in ("resolved", "unresolved"):
            share = (
                f"{counts[status] / len(tasks):6.1%} of all tasks" if status == "resolved" else ""
            )
            print(f"{counts[status]:6}  {status:12} {share}".rstrip())
    if unknown:
        print(f"{unknown:6}  predictions for other tasks, not looked at")
    data: dict[str, Any] = {
        "total_instances": len(tasks),
        "submitted_instances": len(found),
        "completed_instances": counts["resolved"] + counts["unresolved"],
        "resolved_instances": counts["resolved"],
        "unresolved_instances": counts["unresolved"],
        "empty_patch_instances": counts["empty_patch"],
        "error_instances": counts["timeout"] + counts["tampered"] + counts["infra_error"],
        "resolved_ids": ids["resolved"],
        "unresolved_ids": ids["unresolved"],
        "empty_patch_ids": ids["empty_patch"],
        "error_ids": [*ids["timeout"], *ids["tampered"], *ids["infra_error"]],
        "incomplete_ids": missing,
        "statuses": dict(counts),
    }
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"report: {folder / 'report.json'}")
