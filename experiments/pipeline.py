"""The phases of a run, in order. Each looks at the run folder first and does only what is missing.

    tasks -> evaluate the untrained student -> iteration 0 -> evaluate
          -> (collect -> score -> train) per round, evaluate -> summary, table, report

Iteration 0 and the two evaluations around it live in a folder that all algorithms share. Nothing
here knows an algorithm: it asks one whom to let act and what to train on (``algorithms/base.py``).
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from omegaconf import DictConfig

from algorithms.base import Algorithm
from algorithms.engine.rounds import RoundFolder
from experiments import preflight, summary
from experiments.build import Parts
from experiments.evaluate import evaluate
from experiments.folders import RunFolder, iteration0_folder, read_json, run_folder, write_json
from experiments.progress import Display
from experiments.report import write_report
from experiments.rounds import collect, score, train
from experiments.selection import Selection, select
from experiments.summary import ITERATION0, UNTRAINED

log = logging.getLogger(__name__)


def run(cfg: DictConfig, display: Display) -> Path:
    """Returns the run folder, with everything in it."""
    folder = run_folder(cfg)
    if folder.summary is None:
        preflight.check(cfg)
        parts = Parts(cfg)
        parts.check()
        display.console.print(f"run folder: {folder.path}")
        with folder.lock(), contextlib.closing(parts):
            folder.start(cfg)
            _phases(parts, folder, display)
    finished = folder.summary
    assert finished is not None
    if not (folder.path / "report.html").exists():
        write_report(folder.path)
    summary.show(display.console, folder, finished)
    return folder.path


def _phases(parts: Parts, folder: RunFolder, display: Display) -> None:
    cfg = parts.cfg
    with folder.timed("tasks"):
        tasks = select(cfg, read_json(folder.path / "tasks.json"), display)
        write_json(folder.path / "tasks.json", tasks.ids)
        log.info("%d training tasks, %d held out", len(tasks.train), len(tasks.heldout))
    job = _Job(parts, tasks, folder, display)
    job.iteration0()
    for index in range(1, cfg.rounds + 1):
        job.round(index)
    job.close()


class _Job:
    """One run: its parts, its tasks and its folder."""

    def __init__(self, parts: Parts, tasks: Selection, folder: RunFolder, display: Display) -> None:
        self.parts, self.tasks, self.folder, self.display = parts, tasks, folder, display
        self.cfg = parts.cfg
        self.evaluations: list[str] = []

    def iteration0(self) -> None:
        """Made by whoever needs it first; another run that needs it too waits."""
        cfg, own = self.cfg, self.folder
        first = {request.task.instance_id for request in self.tasks.requests(0)}
        shared = self.shared = iteration0_folder(cfg, sorted(first))
        measured = f"{cfg.evaluation.split}-{cfg.evaluation.tasks}"
        untrained = shared.evaluation(f"{measured}/{UNTRAINED}")
        trained = shared.evaluation(f"{measured}/{ITERATION0}")
        with shared.lock(wait=True):
            shared.start(cfg)
            own.link(own.round(0).path, shared.round(0).path)
            self._evaluate(shared, UNTRAINED, untrained, None)
            self._round(shared, self.parts.iteration0, 0, cfg.iteration0)
            self._evaluate(shared, ITERATION0, trained, shared.round(0).checkpoint)
        own.link(own.evaluation(UNTRAINED).path, untrained.path)
        own.link(own.evaluation(ITERATION0).path, trained.path)

    def round(self, index: int) -> None:
        self._round(self.folder, self.parts.algorithm, index, self.cfg.training)
        if index == self.cfg.rounds or self.cfg.evaluation.every_round:
            own = self.folder.round(index)
            name = own.path.name
            self._evaluate(self.folder, name, self.folder.evaluation(name), own.checkpoint)

    def _round(
        self, timed: RunFolder, algorithm: Algorithm, index: int, training: DictConfig
    ) -> None:
        """Collect with the newest student, then train it on what the algorithm makes of it."""
        folders = [self.folder.round(i) for i in range(index + 1)]
        own = folders[-1]
        newest = folders[-2].checkpoint if index else None
        with timed.timed(f"collect {own.path.name}"):
            collect(self.parts, algorithm, folders, self.tasks, newest, self.display)
        if algorithm.collect(index).score != "nothing":
            with timed.timed(f"score {own.path.name}"):
                score(self.parts, algorithm, folders, self.display)
        with timed.timed(f"train {own.path.name}"):
            train(
                self.parts, algorithm, folders, newest, training.epochs, training.lr, self.display
            )

    def _evaluate(
        self, timed: RunFolder, name: str, where: RoundFolder, checkpoint: Path | None
    ) -> None:
        self.evaluations.append(name)
        title = f"evaluate {summary.label(name)}"
        with timed.timed(f"evaluate {name}"):
            evaluate(self.parts, where, self.tasks.evaluation(), checkpoint, self.display, title)

    def close(self) -> None:
        """The claim, from what lies on disk."""
        folder = self.folder
        own = folder.phases
        phases = {"tasks": own.pop("tasks"), **self.shared.phases, **own}
        write_json(folder.path / "phases.json", phases)
        verdicts = {
            name: summary.verdicts_of(folder.evaluation(name).episodes())
            for name in self.evaluations
        }
        claim = summary.summarise(folder, self.evaluations, verdicts)
        write_json(folder.path / "summary.json", claim)
