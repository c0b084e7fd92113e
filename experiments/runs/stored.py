"""Stored runs as the measures read them: sets of episodes, each played by one student.

A run may have been killed, moved, or made by an older version, so every part may be missing; a
measure that lacks what it needs raises NotMeasured, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from swe_gym_env.rollout.store import RoundFolder
from experiments.console.cli import CONF
from experiments.results.summary import ITERATION0, UNTRAINED
from experiments.results.tables import Cell, Table
from swe_gym_env.policies.base import keyed_rng
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Annotation, Episode, TaskInstance

T = TypeVar("T")
Row = Sequence[Cell]
GROWING = ("limits", "sampling", "workers", "serving", "evaluation")  # sections of fixed keys
SHARED = ("iteration0", "teacher", "evaluation")  # folders named so hold no algorithm's rounds


class NotMeasured(Exception):  # noqa: N818 (no error: the other measures go on)
    """This run lacks what the measure needs; the message says what."""


@dataclass(frozen=True)
class EpisodeSet:
    """Episodes of one round or one evaluation. ``round`` is the number of the round, or of that
    after which the evaluation came: 0 is iteration 0, None the untrained student or unknown.
    Episodes spoilt by the machinery are left out."""

    name: str
    round: int | None
    folder: RoundFolder

    @cached_property
    def episodes(self) -> list[Episode]:
        return [e for e in self.folder.episodes() if not e.outcome.mask]

    @cached_property
    def annotations(self) -> list[Annotation]:
        return self.folder.annotations()


@dataclass(frozen=True)
class StoredRun:
    """``tasks`` by id, held-out and training ones; empty where they could not be had. ``given`` are
    episodes of the teacher that no round of the run holds."""

    folder: Path
    label: str
    algorithm: str
    seed: int | None
    cfg: DictConfig
    tasks: Mapping[str, TaskInstance] = field(default_factory=dict)
    given: Sequence[Episode] = ()

    @cached_property
    def rounds(self) -> list[EpisodeSet]:
        found = sorted((self.folder / "rounds").glob("round_*/episodes.jsonl"))
        numbers = [int(path.parent.name.removeprefix("round_")) for path in found]
        return [
            EpisodeSet("iteration 0" if number == 0 else f"round {number}", number, folder)
            for number, folder in zip(numbers, (RoundFolder(p.parent) for p in found), strict=True)
        ]

    @cached_property
    def evaluations(self) -> list[EpisodeSet]:
        """In order of training."""
        found = [*self.folder.glob("evaluations/*/episodes.jsonl")]
        found += self.folder.glob("evaluations/*/*/episodes.jsonl")  # of iteration 0's own folder
        found += self.folder.glob("episodes.jsonl")  # of a checkpoint measured by itself
        sets = [_evaluation(path.parent) for path in found]
        return sorted(sets, key=lambda s: (-1 if s.round is None else s.round, s.name))

    @cached_property
    def demonstrations(self) -> list[Episode]:
        """What the teacher played alone in iteration 0, which runs share. (In later rounds a method
        that lets the teacher act has more of them, and would look closer to it for that alone.)"""
        first = (e for one in self.rounds if one.round == 0 for e in one.episodes)
        return [*(e for e in first if e.turns and e.teacher_share == 1), *self.given]

    @property
    def sets(self) -> list[EpisodeSet]:
        return [one for one in (*self.rounds, *self.evaluations) if one.episodes]


def _evaluation(folder: Path) -> EpisodeSet:
    name = folder.name
    if name == UNTRAINED:
        return EpisodeSet("untrained", None, RoundFolder(folder))
    if name == ITERATION0:
        return EpisodeSet("after iteration 0", 0, RoundFolder(folder))
    number = name.removeprefix("round_")
    if number != name and number.isdigit():
        return EpisodeSet(f"after round {int(number)}", int(number), RoundFolder(folder))
    return EpisodeSet(f"evaluation {name}", None, RoundFolder(folder))


def read_runs(folders: Iterable[Path]) -> list[StoredRun]:
    """SetupError where one is no run folder. Labels are told apart by the folders' hashes where
    several have one algorithm and seed."""
    runs = [_read(folder) for folder in folders]
    labels = [run.label for run in runs]
    return [
        run
        if labels.count(run.label) == 1
        else replace(run, label=f"{run.label} ({_hash(run.folder)})")
        for run in runs
    ]


def _read(folder: Path) -> StoredRun:
    config = folder / "config.yaml"
    if not config.is_file():
        raise SetupError(f"{folder} is no run folder, which holds a config.yaml; runs lie in runs/")
    cfg = OmegaConf.load(config)
    if not isinstance(cfg, DictConfig):
        raise SetupError(f"{config} is no configuration of a run")
    prefix = folder.resolve().name.partition("-")[0]
    own = OmegaConf.select(cfg, "algorithm.name") or "?"
    name = prefix if prefix in SHARED else str(own)
    seed = cfg.get("seed")
    return StoredRun(folder, f"{name}, seed {seed}", name, seed, cfg)


def _hash(folder: Path) -> str:
    return folder.resolve().name.rpartition("-")[2]


def completed(cfg: DictConfig) -> DictConfig:
    """With the defaults of what was added to the configuration since the run was made. Raises
    NotMeasured where it never was a whole one."""
    if "model" not in cfg or "tasks" not in cfg:
        raise NotMeasured("config.yaml is not the whole configuration of a run")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        new = compose("config")
    whole = {str(name): new[name] for name in new} | {str(name): cfg[name] for name in cfg}
    OmegaConf.set_struct(new, False)
    whole |= {name: OmegaConf.merge(new[name], cfg[name]) for name in GROWING if name in cfg}
    return OmegaConf.create(whole)


def home_of(path: Path, run: Path) -> Path:
    """The run folder that ``path`` lies in once links are followed: what runs share, such as
    iteration 0, has its own. ``run`` where it lies in none."""
    above = (folder for folder in path.resolve().parents if (folder / "config.yaml").is_file())
    return next(above, run)


def drawn(items: Sequence[T], seed: int, limit: int | None) -> list[T]:
    """At most ``limit`` of them: the same ones whenever it is asked, more for a larger limit."""
    order = keyed_rng((seed, "analysis")).permutation(len(items))
    return [items[place] for place in order[: limit or len(items)]]


@dataclass(frozen=True)
class Measure:
    """``table`` without rows; ``rows`` gives one run's, or raises NotMeasured. The columns ``run``,
    ``algorithm`` and ``seed`` are put before the table's own, and where it is drawn by ``series``
    (a set of episodes of a run) that column comes last."""

    table: Table
    rows: Callable[[StoredRun], Iterable[Row]]
