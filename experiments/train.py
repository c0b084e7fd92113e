"""Trains one collected round that has no checkpoint yet.

    python -m experiments.train RUN_FOLDER ROUND
    torchrun --nproc-per-node 8 -m experiments.train RUN_FOLDER ROUND

    RUN_FOLDER      a run folder; its config.yaml says how to train
    ROUND           number of the round; 0 is iteration 0

A run trains its rounds without this command, or starts it as training.launch says. Use it to train
a stored round that was collected elsewhere, was labeled again by python -m experiments.annotate, or
whose checkpoint was deleted. After an interruption, the same command continues from the last state
that training.save_every has kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from experiments.console.cli import guarded
from experiments.console.progress import Display
from experiments.pipeline.launch import (
    OF_RUN,
    WorkerDisplay,
    die_with_parent,
    is_first,
    report_progress,
)
from experiments.runs.folders import RunFolder
from experiments.runs.inputs import refuse_changed
from experiments.runs.layout import is_configured
from experiments.runs.reader import load_config
from swe_gym_env.errors import SetupError


def train_stored(cfg: DictConfig, display: Display) -> None:
    """Trains round ``cfg.stored.round`` of ``cfg.stored.run``, in all processes of a launcher."""
    from algorithms.engine import parallel
    from algorithms.engine.checkpoint import device
    from experiments.pipeline.build import RunContext
    from experiments.pipeline.round import train

    parallel.initialize(cpu=device().type == "cpu")
    run, index, of_run = RunFolder(Path(cfg.stored.run)), cfg.stored.round, cfg.stored.of_run
    folders = [run.round(i) for i in range(index + 1)]
    folder, newest = folders[-1], folders[-2].checkpoint if index else None
    refuse_changed(run.path, cfg, "model")
    context = RunContext(cfg)
    algorithm = context.algorithm_of(index)
    scored = algorithm.scoring is None or folder.is_done("score")
    if not folder.is_done("collect") or not scored:
        raise SetupError(f"{folder.path} holds no round that was collected to its end")
    if newest is not None and not newest.is_dir():
        raise SetupError(f"{newest} is not there: train round {index - 1} first")
    if folder.checkpoint.is_dir() and folder.is_done("train"):
        display.console.print(f"already trained; delete it to train again: {folder.checkpoint}")
        return
    locks = parallel.is_main() and not of_run
    lock = RunFolder(folder.path.resolve().parents[1]).lock() if locks else contextlib.nullcontext()
    with lock:
        if locks:
            folder.reopen("train")
        parallel.barrier()
        train(
            algorithm,
            folders,
            newest,
            student=context.student,
            trainer=context.trainer,
            settings=context.training_of(index),
            display=display,
        )
    parallel.shut_down()
    display.console.print(f"checkpoint: {folder.checkpoint}")


def configuration(arguments: list[str]) -> DictConfig:
    """The configuration of the run, with the round to train. Raises SetupError."""
    run, index, *more = [*arguments, "", ""][: max(2, len(arguments))]
    if not run or not is_configured(Path(run)):
        raise SetupError(f"{run!r}: give a run folder, which holds a config.yaml")
    if not index.isdigit() or more not in ([], [OF_RUN]):
        raise SetupError(f"{index!r}: give the number of one of its rounds, and nothing else")
    cfg = load_config(Path(run))
    cfg.stored = {"run": str(Path(run).absolute()), "round": int(index), "of_run": bool(more)}
    return cfg


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    of_run = OF_RUN in arguments
    if of_run or "LOCAL_RANK" in os.environ:
        die_with_parent()
    try:
        cfg = configuration(arguments)
        if is_first() and not of_run:
            guarded(train_stored, cfg, "experiments.train", stored=True)
        else:
            train_stored(cfg, WorkerDisplay(cfg.logging.level if is_first() else "ERROR"))
    except SetupError as error:
        if of_run:
            report_progress(error=str(error))
        elif is_first():  # one message for all processes
            print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
