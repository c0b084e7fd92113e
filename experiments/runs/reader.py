"""Reads a run folder (layout: ``experiments/runs/folders.py``) into what the pages show.

A run can be killed at any moment, so every file may be missing: the page then shows what there is.
Rates and p values come from ``experiments/results/statistics.py``, as those that a run prints do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from swe_gym_env.rollout.store import RoundFolder
from experiments.results import metrics
from experiments.results.table_files import read as read_tables
from experiments.runs.folders import phases_so_far, read_json
from experiments.results.statistics import Rate, rate
from experiments.results.summary import ITERATION0, UNTRAINED, label, verdicts_of
from experiments.results.tables import Table
from swe_gym_env.types import Annotation, Episode, Turn

FIRST = (UNTRAINED, ITERATION0)
PLACE = {UNTRAINED: -1, ITERATION0: 0}  # on an axis of rounds


@dataclass(frozen=True)
class RoundData:
    """One round: ``metrics`` as the run wrote them, and what was collected."""

    index: int
    metrics: Mapping[str, Any]
    episodes: tuple[Episode, ...]
    annotations: tuple[Annotation, ...]

    @property
    def turns(self) -> Iterator[Turn]:
        """Of episodes without a fault of the machinery, as metrics.json counts them."""
        return (turn for e in self.episodes if not e.outcome.mask for turn in e.turns)

    @cached_property
    def teacher_share(self) -> float | None:
        """Realized: executed turns that the teacher took. None where nothing was collected."""
        taken = [turn.actor == "teacher" for turn in self.turns]
        return sum(taken) / len(taken) if taken else None

    @cached_property
    def teacher_text(self) -> float | None:
        """The same of what was written: the share of characters, since not all tokens are kept."""
        sizes = Counter[str]()
        for turn in self.turns:
            sizes[turn.actor] += len(turn.text)
        return sizes["teacher"] / sizes.total() if sizes.total() else None

    @cached_property
    def agreement(self) -> tuple[int, float | None]:
        """Labels beside a student's turn, and the share of them that are that turn, to the word."""
        counted = [e for e in self.episodes if not e.outcome.mask]
        own = {(e.episode_id, k): t.text for e in counted for k, t in enumerate(e.turns)}
        beside = {
            (a.episode_id, a.turn): a.text
            for a in self.annotations
            if a.text is not None and not a.executed and (a.episode_id, a.turn) in own
        }
        if not beside:
            return 0, None
        return len(beside), sum(own[key] == text for key, text in beside.items()) / len(beside)


@dataclass(frozen=True)
class Evaluation:
    """``key`` is its folder's name, ``round`` its place on an axis of rounds: -1 untrained."""

    key: str
    name: str
    round: int
    episodes: tuple[Episode, ...]
    verdicts: Mapping[str, bool]
    rate: Rate

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return metrics.of_episodes(self.episodes)


@dataclass(frozen=True)
class RunData:
    """A run folder as read. ``versions``: where and with what each of its starts was made."""

    folder: Path
    config: str = ""
    finished: bool = False
    versions: tuple[Mapping[str, Any], ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[RoundData, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    analysis: tuple[Table, ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.yaml, empty where it is missing or was not written to its end."""
        try:
            data = OmegaConf.to_container(OmegaConf.create(self.config or "{}"))
        except Exception:
            return {}
        return {str(k): v for k, v in data.items()} if isinstance(data, dict) else {}


def read_run(folder: Path) -> RunData:
    """Whatever of a run stands in ``folder``."""
    config, finished = folder / "config.yaml", (folder / "summary.json").exists()
    versions = read_json(folder / "versions.json") or ()
    return RunData(
        folder=folder,
        config=config.read_text("utf-8", "replace") if config.exists() else "",
        finished=finished,
        versions=tuple(versions),
        phases=(read_json(folder / "phases.json") or {}) if finished else phases_so_far(folder),
        rounds=tuple(_round(path) for path in sorted((folder / "rounds").glob("round_*[0-9]"))),
        evaluations=_evaluations(folder / "evaluations"),
        analysis=tuple(read_tables(folder / "analysis")),
    )


def _round(folder: Path) -> RoundData:
    stored = RoundFolder(folder)
    return RoundData(
        index=int(folder.name.removeprefix("round_")),
        metrics=stored.metrics,
        episodes=tuple(stored.episodes()),
        annotations=tuple(stored.annotations()),
    )


def _evaluations(folder: Path) -> tuple[Evaluation, ...]:
    def order(path: Path) -> tuple[int, str]:
        return (FIRST.index(path.name) if path.name in FIRST else len(FIRST), path.name)

    rows: list[Evaluation] = []
    paths = [p for p in folder.glob("[!.]*") if p.name in FIRST or p.name.startswith("round_")]
    for path in sorted(paths, key=order):
        episodes = tuple(RoundFolder(path).episodes())
        verdicts = verdicts_of(episodes)
        if not verdicts:
            continue
        name, place = label(path.name), PLACE.get(path.name)
        index = int(path.name.removeprefix("round_")) if place is None else place
        measured = rate(sum(verdicts.values()), len(verdicts))
        rows.append(Evaluation(path.name, name, index, episodes, verdicts, measured))
    return tuple(rows)
