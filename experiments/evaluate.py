"""Measure one model, the expert or an endpoint: ``python -m experiments.evaluate``.

    model.path=FOLDER                       a checkpoint; without it the untrained student
    evaluation.who=teacher teacher=expert   the expert
    evaluation.who=teacher teacher=server teacher.base_url=URL teacher.model=NAME   an endpoint
    evaluation.samples=8                    eight samples a task and pass@k (temperature: sampling)
    --limit N                               the first N tasks: evaluation.tasks=N
    --task ID                               this one, may be repeated: evaluation.ids=[ID]
    -m model.path=A,B                       one after another; then experiments.compare

The same command resumes a killed one, and prints a finished one again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from functools import partial

import hydra
from omegaconf import DictConfig, open_dict

from experiments.config import values
from experiments.console import terminal
from experiments.console.cli import HYDRA, explain_unknown, guarded
from experiments.console.progress import Display
from experiments.pipeline import precision, preflight, teachers
from experiments.pipeline.build import RunContext
from experiments.pipeline.evaluate import alone, evaluate, evaluate_teacher
from experiments.pipeline.tasks import select
from experiments.report import publish
from experiments.results import evaluation
from experiments.runs.folders import RunFolder, evaluation_folder
from swe_gym_env.rollout.store import RoundFolder

log = logging.getLogger(__name__)

SWEBENCH_TOKENS = 16_384  # with fewer a bug report leaves no room for turns


def folder_of(cfg: DictConfig) -> RunFolder:
    return evaluation_folder(cfg)


def _alone(cfg: DictConfig, display: Display) -> None:
    values.check_some(cfg, "evaluation.tasks")
    measured, folder = alone(cfg), folder_of(cfg)
    played = RoundFolder(folder.path)
    if "pass_at" not in played.metrics:  # never measured, or by an older version
        played.reopen("evaluate")
    if not played.is_done("evaluate"):
        preflight.check(measured, trains=False)
        context = RunContext(measured)
        with folder.lock(), contextlib.closing(context):
            if measured.evaluation.who == "student" or measured.teacher.name in teachers.IN_PROCESS:
                context.student.settle(folder.path, precision.of_checkpoint(cfg.model.path))
                with open_dict(cfg):
                    cfg.decided = measured.decided
            folder.start(cfg)
            saved = folder.tasks
            tasks = select(measured, saved and {"heldout": saved["heldout"]}, display)
            folder.save_tasks(tasks.ids)
            if cfg.tasks.name.startswith("swebench") and cfg.limits.max_tokens < SWEBENCH_TOKENS:
                log.warning(
                    "%d tasks with at most %d turns and %d tokens, the limits of small ones: "
                    "experiment=swebench has all tasks and room for theirs",
                    *(len(tasks.heldout), cfg.limits.max_turns, cfg.limits.max_tokens),
                )
            requests = tasks.evaluation(cfg.evaluation.samples)
            measure = partial(evaluate, checkpoint=None, student=context.student)
            if measured.evaluation.who == "teacher":
                measure = partial(evaluate_teacher, teacher=context.teacher)
            measure(
                played,
                requests,
                player=context.player,
                settings=measured.evaluation,
                display=display,
                title="evaluate",
            )
            publish(folder.path, tasks.heldout)
    folder.remember()
    for table in evaluation.tables(played.metrics):
        terminal.show(display.console, table)
    display.console.print(f"episodes, tables, metrics.json and predictions: {folder.path}")
    display.console.print(f"report: {publish(folder.path)}", style="bold")


def translated(words: Sequence[str]) -> list[str]:
    """``--limit`` and ``--task`` as overrides; the others as they are. SystemExit if malformed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--task", action="append", default=[])
    found, rest = parser.parse_known_args(words)
    overrides = [] if found.limit is None else [f"evaluation.tasks={found.limit}"]
    if found.task:
        overrides.append(f"evaluation.ids={json.dumps(found.task, separators=(',', ':'))}")
    # Hydra wants its overrides in one piece, and the last of them wins
    given = [place for place, word in enumerate(rest, 1) if "=" in word and word[0] != "-"]
    place = given[-1] if given else 0
    return [*rest[:place], *overrides, *rest[place:]]


@hydra.main(**HYDRA)
def main(cfg: DictConfig) -> None:
    guarded(_alone, cfg, "experiments.evaluate")


if __name__ == "__main__":
    sys.argv[1:] = translated(sys.argv[1:])
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        print("Choices and values are those of a run, whose help follows:\n")  # Hydra's
    with explain_unknown():
        main()
