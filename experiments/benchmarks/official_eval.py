"""Whether the official `swebench eval` agrees with our verdicts on an evaluation's preds.jsonl.

    python -m experiments.benchmarks.official_eval EVALUATION_FOLDER --task ID --task ID

Measured: for each task, the verdict of ``swebench eval ROWS -p preds.jsonl`` beside ours, one line
each. Docker images of the tasks are built from the local store if they are there, and the tasks'
rows are written as a data set. The exit code is 1 if a verdict differs.

It needs Docker and the extra `swebench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.verdict_parity import official_row
from experiments.console.progress import Display
from experiments.pipeline.tasks import select
from experiments.runs.reader import load_config
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.docker import DockerProvider
from swe_gym_env.sandbox.docker.image import ensure
from swe_gym_env.types import TaskInstance

RUN = "official"  # run id; logs are in logs/run_evaluation/official/


@dataclass(frozen=True)
class Verdict:
    """Both verdicts on one task.

    Attributes:
        instance_id: The task.
        ours: Status of our outcome.
        official: "resolved", "unresolved", "empty_patch" or "error"; "nothing" if the report does
            not contain the task.
    """

    instance_id: str
    ours: str
    official: str

    @property
    def same(self) -> bool:
        return (self.ours == "resolved") == (self.official == "resolved")


def compare(
    folder: Path, tasks: Sequence[TaskInstance], work: Path, timeout: int = 900
) -> list[Verdict]:
    """Compare the verdicts of an evaluation.

    Args:
        folder: Folder of the evaluation.
        tasks: Its tasks.
        work: Folder for the command's input, logs and report.
        timeout: Seconds that the tests of one task may take.

    Raises:
        CalledProcessError: The command failed.
    """
    api = DockerProvider().api
    rows = []
    for task in tasks:
        stored = images.exists(task.image)
        image = ensure(api, task.image, task.workdir) if stored else task.image
        rows.append(official_row(task, image))
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = {task.instance_id for task in tasks}
    lines = (folder / "preds.jsonl").read_text().splitlines()
    chosen = [line for line in lines if json.loads(line)["instance_id"] in wanted]
    (work / "preds.jsonl").write_text("".join(f"{line}\n" for line in chosen))
    command = [str(Path(sys.executable).parent / "swebench"), "eval", "rows.jsonl"]
    command += ["-p", "preds.jsonl", "--run-id", RUN, "-j", "1", "-t", str(timeout)]
    subprocess.run(command, cwd=work, check=True)
    (report,) = work.glob(f"*.{RUN}.json")
    official = _by_id(json.loads(report.read_text()))
    ours = {episode.instance_id: episode for episode in RoundFolder(folder).episodes()}
    return [
        Verdict(name, ours[name].outcome.status, official.get(name, "nothing"))
        for name in sorted(wanted & ours.keys())
    ]


def _by_id(report: dict[str, Any]) -> dict[str, str]:
    kinds = ("unresolved", "resolved", "empty_patch", "error")
    return {name: kind for kind in kinds for name in report.get(f"{kind}_ids", [])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", action="append", default=[], metavar="ID")
    parser.add_argument("--timeout", type=int, default=900)
    args = parser.parse_args()
    cfg = load_config(args.folder)
    cfg.tasks.train = 0
    if args.task:
        cfg.evaluation.ids = args.task
    tasks = select(cfg, None, Display()).heldout
    with tempfile.TemporaryDirectory() as work:
        verdicts = compare(args.folder, tasks, Path(work), args.timeout)
    print("| task | official | ours |\n|---|---|---|")
    for verdict in verdicts:
        print(f"| {verdict.instance_id} | {verdict.official} | {verdict.ours} |")
    same = sum(verdict.same for verdict in verdicts)
    print(f"\n{same} of {len(verdicts)} verdicts are the same")
    raise SystemExit(same < len(verdicts))


if __name__ == "__main__":
    main()
