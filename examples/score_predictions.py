"""Score patches that another system wrote, in the format of swebench.

    python -m examples.score_predictions preds.jsonl --tasks rows.jsonl

A line is {"instance_id": ..., "model_name_or_path": ..., "model_patch": ...}. A task without a
line counts as not resolved; one that could not be scored is reported separately and not counted.
"""

import argparse
import collections
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swe_gym_env import sandbox, tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.grading import grade
from swe_gym_env.types import Outcome, TaskInstance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--tasks", required=True, help="rows of a task set: file, folder, hub id")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.predictions.read_text().splitlines() if line]
    patches = {line["instance_id"]: line["model_patch"] or "" for line in lines}
    chosen = tasks.load("jsonl", path=args.tasks)
    if unknown := sorted(set(patches) - {task.instance_id for task in chosen}):
        raise SetupError(f"{args.tasks} has no task {', '.join(unknown[:3])}: wrong file or split?")
    provider = sandbox.provider()

    def score(task: TaskInstance) -> Outcome:
        return grade(task, patches.get(task.instance_id, ""), provider)

    counts: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(args.workers) as pool:
        for task, outcome in zip(chosen, pool.map(score, chosen), strict=True):
            counts["not scored" if outcome.mask else outcome.status] += 1
            print(task.instance_id, outcome.status, outcome.reason, sep="\t", flush=True)
    scored = len(chosen) - counts["not scored"]
    print(f"{counts['resolved']} of {scored} resolved; {dict(counts)}")


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
