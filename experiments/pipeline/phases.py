"""The phases of a run, in order. Each reads the run folder first and does only what is missing.

    tasks -> evaluate the untrained student -> iteration 0 -> evaluate
          -> (collect -> score -> train) per round, evaluate -> summary, table, report

With ``overlap`` N, up to N more rounds are collected while one trains. Round k is always played by
the student of round k - 1 - N, whatever ends first, so that a resumed run gives the same episodes.

Iteration 0 and the two evaluations around it are in a folder that all algorithms share. Nothing
here depends on an algorithm: it is asked who acts and what to train on (``algorithms/base.py``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from algorithms.base import Algorithm
from experiments.config import values
from experiments.console.progress import Display
from experiments.pipeline import precision, preflight, remaining, sweeps
from experiments.pipeline.build import RunContext
from experiments.pipeline.evaluate import evaluate, refuse_in_a_run
from experiments.pipeline.launch import training
from experiments.pipeline.round import collect, score, train
from experiments.pipeline.tasks import Selection, select
from experiments.pipeline.tracking import Tracker, track, tracker
from experiments.results import summary
from experiments.results.summary import Student
from experiments.runs.folders import RunFolder, iteration0_folder, run_folder
from experiments.runs.layout import FIRST, ITERATION0, UNTRAINED, evaluation_label
from experiments.runs.naming import evaluated_on, untrained_folder, untrained_tasks
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import TaskInstance

log = logging.getLogger(__name__)


def run(cfg: DictConfig, display: Display) -> tuple[RunFolder, list[TaskInstance] | None]:
    """Returns the finished run, and its tasks; None for these if it had been finished before."""
    refuse_in_a_run(cfg)
    values.check_some(cfg, "tasks.train", "evaluation.tasks")
    folder, done = run_folder(cfg), None
    if folder.summary is None:
        preflight.check(cfg)
        context = RunContext(cfg)
        context.check()
        display.console.print(f"run folder: {folder.path}")
        with folder.lock(), contextlib.closing(context):
            with sweeps.siblings() as runs:
                context.student.settle(folder.path, precision.of_sweep(runs, cfg))
                folder.start(cfg)
            with contextlib.closing(tracker(cfg, folder)) as tracked:
                tasks = _phases(context, folder, display, tracked)
            done = [*tasks.train, *tasks.heldout]
    folder.remember()
    return folder, done


def _phases(
    context: RunContext, folder: RunFolder, display: Display, tracked: Tracker
) -> Selection:
    cfg = context.cfg
    with folder.timed("tasks"):
        tasks = select(cfg, folder.tasks, display)
        folder.save_tasks(tasks.ids)
        log.info("%d training tasks, %d held out", len(tasks.train), len(tasks.heldout))
    job = _Job(context, tasks, folder, display, tracked)
    job.iteration0()
    for index in range(1, cfg.rounds + 1):
        job.collect(index)  # does nothing if the round was collected ahead
        with job.training(index):
            for ahead in range(index + 1, min(index + cfg.overlap, cfg.rounds) + 1):
                job.collect(ahead)
        job.evaluate(index)
    job.close()
    return tasks


class _Job:
    """One run: its components, tasks and folder."""

    def __init__(
        self,
        context: RunContext,
        tasks: Selection,
        folder: RunFolder,
        display: Display,
        tracked: Tracker,
    ) -> None:
        self.context, self.tasks, self.folder, self.display = context, tasks, folder, display
        self.cfg, self.tracked = context.cfg, tracked
        self.evaluations: list[str] = []
        self.ended = ["tasks"]

    @contextlib.contextmanager
    def _phase(self, timed: RunFolder, name: str) -> Iterator[None]:
        before = timed.phases.get(name, 0.0)
        with timed.timed(name):
            yield
        self.ended.append(name)
        track(self.tracked, self.folder)
        if timed.phases[name] - before >= 1:  # else an earlier start has done it
            seconds = {**self.shared.phases, **self.folder.phases}
            names = remaining.phases(self.cfg, self.context.iteration0, self.context.algorithm)
            log.info(remaining.line(names, self.ended, seconds))

    def iteration0(self) -> None:
        """Made by the first run that needs it; other runs that need it wait."""
        cfg, folder = self.cfg, self.folder
        first = {request.task.instance_id for request in self.tasks.requests(0)}
        shared = self.shared = iteration0_folder(cfg, sorted(first))
        measured = evaluated_on(cfg)
        count, untrained = untrained_tasks(cfg), shared.evaluation(untrained_folder(cfg))
        trained = shared.evaluation(f"{measured}/{ITERATION0}")
        with shared.lock(wait=True):
            shared.start(cfg)
            folder.link(folder.round(0).path, shared.round(0).path)
            if count != 0:
                self._evaluate(shared, UNTRAINED, untrained, None, count)
                folder.link(folder.evaluation(UNTRAINED).path, untrained.path)
            self.collect(0, shared)
            with self.training(0, shared):
                pass
            self._evaluate(shared, ITERATION0, trained, shared.round(0).checkpoint)
        folder.link(folder.evaluation(ITERATION0).path, trained.path)
        track(self.tracked, folder)

    def _rounds(self, index: int) -> tuple[list[RoundFolder], Algorithm]:
        folders = [self.folder.round(i) for i in range(index + 1)]
        return folders, self.context.algorithm_of(index)

    def collect(self, index: int, timed: RunFolder | None = None) -> None:
        """Collects a round with the student that ``overlap`` assigns to it."""
        timed, (folders, algorithm) = timed or self.folder, self._rounds(index)
        name, staleness = folders[-1].path.name, min(self.cfg.overlap, max(0, index - 1))
        checkpoint = folders[index - 1 - staleness].checkpoint if index else None
        student, teacher = self.context.student, self.context.teacher
        with self._phase(timed, f"collect {name}"):
            collect(
                algorithm,
                folders,
                self.tasks,
                checkpoint,
                student=student,
                teacher=teacher,
                player=self.context.player,
                display=self.display,
                staleness=staleness,
            )
        if algorithm.scoring is not None:
            with self._phase(timed, f"score {name}"):
                score(algorithm, folders, student=student, teacher=teacher, display=self.display)

    @contextlib.contextmanager
    def training(self, index: int, timed: RunFolder | None = None) -> Iterator[None]:
        """Trains the round: after the caller's block, or in a separate process while the block
        runs if ``training.launch`` says how to start it."""
        timed, (folders, algorithm) = timed or self.folder, self._rounds(index)
        launch, phase = self.cfg.training.get("launch"), f"train {folders[-1].path.name}"
        if launch:
            if not folders[-1].is_done("train"):
                self.context.student.free_memory()
            clock = contextlib.ExitStack()  # measures what remains after the block
            with clock, training(launch, self.folder, index, self.display):
                yield
                clock.enter_context(self._phase(timed, phase))
            return
        yield
        newest = folders[-2].checkpoint if index else None
        with self._phase(timed, phase):
            train(
                algorithm,
                folders,
                newest,
                student=self.context.student,
                trainer=self.context.trainer,
                settings=self.context.training_of(index),
                display=self.display,
            )

    def evaluate(self, index: int) -> None:
        if index == self.cfg.rounds or self.cfg.evaluation.every_round:
            trained = self.folder.round(index)
            name = trained.path.name
            self._evaluate(self.folder, name, self.folder.evaluation(name), trained.checkpoint)

    def _evaluate(
        self,
        timed: RunFolder,
        name: str,
        where: RoundFolder,
        checkpoint: Path | None,
        count: int | None = None,
    ) -> None:
        """Evaluates on the first ``count`` tasks; None is all of them."""
        self.evaluations.append(name)
        title, requests = f"evaluate {evaluation_label(name)}", self.tasks.evaluation()[:count]
        with self._phase(timed, f"evaluate {name}"):
            evaluate(
                where,
                requests,
                checkpoint,
                student=self.context.student,
                player=self.context.player,
                settings=self.cfg.evaluation,
                display=self.display,
                title=title,
            )

    def close(self) -> None:
        """Writes the summary of the run, computed from its folder."""
        folder = self.folder
        times = folder.phases
        phases = {"tasks": times.pop("tasks"), **self.shared.phases, **times}
        folder.save_phases(phases)
        students = []
        for name in self.evaluations:
            measured, label = folder.evaluation(name), evaluation_label(name)
            verdicts = summary.verdicts_of(measured.episodes())
            students.append(Student(name, label, verdicts, measured.metrics, name in FIRST))
        folder.finish(summary.summarize(students, folder.round_metrics(), phases))
