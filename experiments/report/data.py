"""Reads a run folder (layout: ``experiments/folders.py``) into what the pages show.

A run can be killed at any moment, so every file may be missing: the page then shows what there is.
Rates and p values come from ``experiments/statistics.py``, as those that a run prints do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments import metrics
from experiments.analysis.files import read as read_tables
from experiments.folders import phases_so_far
from experiments.statistics import Rate, rate
from experiments.summary import ITERATION0, UNTRAINED, label, verdicts_of
from experiments.tables import Table
from swe_gym_env.types import Annotation, Episode, from_dict

FIRST = (UNTRAINED, ITERATION0)
PLACE = {UNTRAINED: -1, ITERATION0: 0}  # on an axis of rounds


@dataclass(frozen=True)
class RoundData:
    """One round: ``metrics`` as the run wrote them, and what was collected."""

    index: int
    metrics: Mapping[str, Any]
    episodes: tuple[Episode, ...]
    annotations: tuple[Annotation, ...]

    @cached_property
    def teacher_share(self) -> float | None:
        """Realised: executed turns that the teacher took. None where nothing was collected."""
        taken = [turn.executor == "teacher" for e in self.episodes for turn in e.turns]
        return sum(taken) / len(taken) if taken else None

    @cached_property
    def teacher_text(self) -> float | None:
        """The same of what was written: the share of characters, since not all tokens are kept."""
        sizes = Counter[str]()
        for turn in (turn for e in self.episodes for turn in e.turns):
            sizes[turn.executor] += len(turn.text)
        return sizes["teacher"] / sizes.total() if sizes.total() else None

    @cached_property
    def agreement(self) -> tuple[int, float | None]:
        """Labels beside a student's turn, and the share of them that are that turn, to the word."""
        own = {(e.episode_id, k): t.text for e in self.episodes for k, t in enumerate(e.turns)}
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
    versions = _json(folder / "versions.json", [])
    return RunData(
        folder=folder,
        config=config.read_text("utf-8", "replace") if config.exists() else "",
        finished=finished,
        versions=tuple(versions),
        phases=_json(folder / "phases.json", {}) if finished else phases_so_far(folder),
        rounds=tuple(_round(path) for path in sorted((folder / "rounds").glob("round_*"))),
        evaluations=_evaluations(folder / "evaluations"),
        analysis=tuple(read_tables(folder / "analysis")),
    )


def _round(folder: Path) -> RoundData:
    return RoundData(
        index=int(folder.name.removeprefix("round_")),
        metrics=_json(folder / "metrics.json", {}),
        episodes=_episodes(folder),
        annotations=tuple(from_dict(Annotation, r) for r in _lines(folder / "annotations.jsonl")),
    )


def _evaluations(folder: Path) -> tuple[Evaluation, ...]:
    def order(path: Path) -> tuple[int, str]:
        return (FIRST.index(path.name) if path.name in FIRST else len(FIRST), path.name)

    rows: list[Evaluation] = []
    paths = [p for p in folder.glob("[!.]*") if p.name in FIRST or p.name.startswith("round_")]
    for path in sorted(paths, key=order):
        episodes = _episodes(path)
        verdicts = verdicts_of(episodes)
        if not verdicts:
            continue
        name, place = label(path.name), PLACE.get(path.name)
        index = int(path.name.removeprefix("round_")) if place is None else place
        measured = rate(sum(verdicts.values()), len(verdicts))
        rows.append(Evaluation(path.name, name, index, episodes, verdicts, measured))
    return tuple(rows)


def _episodes(folder: Path) -> tuple[Episode, ...]:
    return tuple(from_dict(Episode, row) for row in _lines(folder / "episodes.jsonl"))


def _json(path: Path, missing: Any) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else missing


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that a killed run may have left with half a last line."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
