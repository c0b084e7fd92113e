"""Reads stored runs. Every command and page that looks at a run folder reads it through here.

A run may have been killed, moved, or made by an older version, so every part may be missing. Parts
are read when they are first used: listing the runs of a folder reads no episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.results.statistics import Rate, rate
from experiments.results.summary import verdicts_of
from experiments.results.tables import Table
from experiments.runs import layout, tables
from experiments.runs.folders import RunFolder, phases_so_far
from swe_gym_env.disk import read_json
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import Attempts, RoundFolder, in_order
from swe_gym_env.types import Annotation, Episode, TaskInstance

Labels = dict[tuple[str, int], list[Annotation]]  # by episode id and turn
SHARED = ("iteration0", "teacher", "evaluation")  # folders with these prefixes have no algorithm


@dataclass(frozen=True)
class EpisodeSet:
    """The episodes of one round or one evaluation.

    Attributes:
        name: What tables and pages call it.
        folder: Its folder; all files in it are read through ``RoundFolder``.
        round: Number of the round, or of the round before the evaluation; 0 is iteration 0. None:
            the evaluation of the untrained student, or of one that belongs to no round.
        training: Whether it is a round of training, and not an evaluation.
        run: The run folder that it belongs to; None if there is none.
    """

    name: str
    folder: RoundFolder
    round: int | None = None
    training: bool = False
    run: Path | None = None

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.folder.path.name

    @property
    def label(self) -> str:
        """The student that an evaluation measured, as reports call it."""
        return layout.evaluation_label(self.key)

    @property
    def place(self) -> int:
        """On an axis of rounds, where the untrained student is at -1."""
        return -1 if self.round is None else self.round

    @cached_property
    def _attempts(self) -> Attempts:
        return self.folder.attempts()

    @cached_property
    def episodes(self) -> list[Episode]:
        return in_order(self._attempts)

    @cached_property
    def valid(self) -> list[Episode]:
        """Without those that an infrastructure error ended: they say nothing about a student."""
        return [episode for episode in self.episodes if not episode.outcome.mask]

    @cached_property
    def annotations(self) -> list[Annotation]:
        return self.folder.annotations(self._attempts)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What the run wrote about it; empty before that."""
        return self.folder.metrics

    @cached_property
    def verdicts(self) -> dict[str, bool]:
        """By task: whether the valid episode resolved it."""
        return verdicts_of(self.episodes)

    @cached_property
    def rate(self) -> Rate:
        return rate(sum(self.verdicts.values()), len(self.verdicts))

    @property
    def finished(self) -> bool:
        """For an evaluation: it was played and measured to its end."""
        return self.folder.is_done("evaluate")

    def read(self) -> tuple[list[Episode], Labels]:
        """All episodes and the labels of each turn; nothing is kept in memory."""
        attempts = self.folder.attempts()
        labels: Labels = {}
        for label in self.folder.annotations(attempts):
            labels.setdefault((label.episode_id, label.turn), []).append(label)
        return in_order(attempts), labels


@dataclass(frozen=True)
class StoredRun:
    """A run folder, or that of an evaluation.

    Attributes:
        folder: Where it is.
        name: What tables call it (:func:`read_runs` makes it unambiguous); else empty.
        tasks: Its tasks by id, held-out and training ones, if the caller has loaded them.
        demonstrated: Episodes of the teacher, given by the caller, that no round of the run holds.
    """

    folder: Path
    name: str = ""
    tasks: Mapping[str, TaskInstance] = field(default_factory=dict)
    demonstrated: Sequence[Episode] = ()

    @cached_property
    def config(self) -> str:
        """The text of config.yaml; empty if there is none."""
        try:
            return (self.folder / layout.CONFIG).read_text("utf-8", "replace")
        except OSError:
            return ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.yaml as plain values, empty if it is missing or damaged."""
        try:
            data = OmegaConf.to_container(OmegaConf.create(self.config or "{}"))
        except Exception:
            return {}
        return {str(k): v for k, v in data.items()} if isinstance(data, dict) else {}

    @cached_property
    def cfg(self) -> DictConfig:
        """config.yaml. Raises SetupError if it is missing, or is not a configuration."""
        return load_config(self.folder)

    @property
    def algorithm(self) -> str:
        prefix = self.folder.resolve().name.partition("-")[0]
        named = OmegaConf.select(self.cfg, "algorithm.name") or "?"
        return prefix if prefix in SHARED else str(named)

    @property
    def seed(self) -> int | None:
        return self.cfg.get("seed")

    @cached_property
    def finished(self) -> bool:
        return (self.folder / layout.SUMMARY).exists()

    @cached_property
    def versions(self) -> tuple[Mapping[str, Any], ...]:
        """Of each start: the command, the commit, packages and machine."""
        return tuple(read_json(self.folder / layout.VERSIONS) or ())

    @cached_property
    def phases(self) -> dict[str, float]:
        """Seconds of wall time by the name of the phase."""
        own = RunFolder(self.folder)
        return own.phases if self.finished else phases_so_far(self.folder)

    @cached_property
    def task_ids(self) -> dict[str, list[str]]:
        """By split: train, heldout."""
        return RunFolder(self.folder).tasks or {}

    @cached_property
    def rounds(self) -> list[EpisodeSet]:
        """All that have begun, also those without an episode yet."""
        found = []
        for path in layout.round_folders(self.folder):
            number = layout.round_number(path.name)
            name = f"round {number}" if number else "iteration 0"
            found.append(EpisodeSet(name, RoundFolder(path), number, True, self.folder))
        return found

    @cached_property
    def collected(self) -> list[EpisodeSet]:
        """Rounds with episodes."""
        return [one for one in self.rounds if layout.has_episodes(one.folder.path)]

    @cached_property
    def evaluations(self) -> list[EpisodeSet]:
        """All of them, in the order of training."""
        sets = [self._evaluation(path) for path in layout.evaluation_folders(self.folder)]
        return sorted(sets, key=lambda one: (one.place, one.name))

    @cached_property
    def measured(self) -> list[EpisodeSet]:
        """Evaluations of the run's own students that have a valid episode, in the order of
        training: what a report shows."""
        above = self.folder / layout.EVALUATIONS
        return [
            one
            for one in self.evaluations
            if one.folder.path.parent == above
            and (one.key in layout.FIRST or layout.round_number(one.key) is not None)
            and one.verdicts
        ]

    @property
    def sets(self) -> list[EpisodeSet]:
        """All rounds and evaluations with a valid episode."""
        return [one for one in (*self.collected, *self.evaluations) if one.valid]

    @cached_property
    def demonstrations(self) -> list[Episode]:
        """What the teacher played alone in iteration 0, which runs share. (In later rounds a method
        that lets the teacher act has more of them, and would look closer to it for that alone.)"""
        first = (e for one in self.collected if one.round == 0 for e in one.valid)
        return [*(e for e in first if e.turns and e.teacher_share == 1), *self.demonstrated]

    @cached_property
    def analysis(self) -> tuple[Table, ...]:
        """The tables that ``experiments.analyze`` wrote."""
        return tuple(tables.read(self.folder / layout.ANALYSIS))

    def checkpoint(self, name: str) -> Path | None:
        """The checkpoint that the evaluation ``name`` measures, which may have been deleted; None
        if ``name`` is not that of a trained student."""
        number = layout.evaluation_round(name)
        return None if number is None else RunFolder(self.folder).round(number).checkpoint

    def _evaluation(self, folder: Path) -> EpisodeSet:
        number = layout.evaluation_round(folder.name)
        if folder.name == layout.UNTRAINED:
            name = "untrained"
        elif number is None:
            name = f"evaluation {folder.name}"
        else:
            name = f"after round {number}" if number else "after iteration 0"
        return EpisodeSet(name, RoundFolder(folder), number, run=self.folder)


def read_run(folder: Path) -> StoredRun:
    """What there is of a run in ``folder``. SetupError if a newer version wrote it."""
    layout.check_format(folder)
    return StoredRun(folder)


def read_runs(folders: Iterable[Path]) -> list[StoredRun]:
    """Runs with a configuration, each with its own name: algorithm and seed, and the hash of the
    folder if several have these in common. Raises SetupError if one is no run folder."""
    runs = [read_run(folder) for folder in folders]
    names = [f"{run.algorithm}, seed {run.seed}" for run in runs]
    return [
        replace(run, name=name if names.count(name) == 1 else f"{name} ({_hash(run.folder)})")
        for run, name in zip(runs, names, strict=True)
    ]


def load_config(folder: Path) -> DictConfig:
    """The configuration that a run or an evaluation was started with. Raises SetupError."""
    layout.check_format(folder)
    file = folder / layout.CONFIG
    if not file.is_file():
        raise SetupError(f"{folder} is no run folder, which holds a config.yaml; runs lie in runs/")
    cfg = OmegaConf.load(file)
    if not isinstance(cfg, DictConfig):
        raise SetupError(f"{file} is no configuration of a run")
    return cfg


def _hash(folder: Path) -> str:
    return folder.resolve().name.rpartition("-")[2]
