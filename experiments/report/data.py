"""Reads a run folder (layout: ``experiments/folders.py``) into what the page shows.

A run can be killed at any moment, so every file may be missing: the page then shows what there is.
Rates and p values come from ``experiments/statistics.py``, as those that a run prints do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.statistics import McNemar, Rate, mcnemar, rate
from experiments.summary import ITERATION0, UNTRAINED, label, verdicts_of
from swe_gym_env.types import Annotation, Episode, from_dict

LISTED_TESTS = 60  # per episode; the others are counted
FIRST = (UNTRAINED, ITERATION0)


@dataclass(frozen=True)
class RoundData:
    """One round: ``metrics`` as the run wrote them, and what was collected."""

    index: int
    metrics: Mapping[str, Any]
    episodes: tuple[Episode, ...]
    annotations: tuple[Annotation, ...]

    @property
    def teacher_share(self) -> float | None:
        """Realised: executed turns that the teacher took. None where nothing was collected."""
        taken = [turn.executor == "teacher" for e in self.episodes for turn in e.turns]
        return sum(taken) / len(taken) if taken else None


@dataclass(frozen=True)
class Evaluation:
    """One row of the table. ``against`` compares it with the first row on the same tasks."""

    name: str
    episodes: tuple[Episode, ...]
    rate: Rate
    against: McNemar | None


@dataclass(frozen=True)
class RunData:
    """A run folder as read."""

    folder: Path
    config: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[RoundData, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()


def read_run(folder: Path) -> RunData:
    """Whatever of a run stands in ``folder``."""
    config = folder / "config.yaml"
    return RunData(
        folder=folder,
        config=config.read_text("utf-8") if config.exists() else "",
        summary=_json(folder / "summary.json"),
        phases=_json(folder / "phases.json"),
        rounds=tuple(_round(path) for path in sorted((folder / "rounds").glob("round_*"))),
        evaluations=_evaluations(folder / "evaluations"),
    )


def _round(folder: Path) -> RoundData:
    return RoundData(
        index=int(folder.name.removeprefix("round_")),
        metrics=_json(folder / "metrics.json"),
        episodes=_episodes(folder),
        annotations=tuple(from_dict(Annotation, r) for r in _lines(folder / "annotations.jsonl")),
    )


def _evaluations(folder: Path) -> tuple[Evaluation, ...]:
    def order(path: Path) -> tuple[int, str]:
        return (FIRST.index(path.name) if path.name in FIRST else len(FIRST), path.name)

    rows: list[Evaluation] = []
    first: dict[str, bool] = {}
    for path in sorted(folder.glob("[!.]*"), key=order):
        episodes = _episodes(path)
        verdicts = verdicts_of(episodes)
        if not verdicts:
            continue
        against = mcnemar(first, verdicts) if rows else None
        first = first or verdicts
        measured = rate(sum(verdicts.values()), len(verdicts))
        rows.append(Evaluation(label(path.name), episodes, measured, against))
    return tuple(rows)


def _episodes(folder: Path) -> tuple[Episode, ...]:
    return tuple(from_dict(Episode, row) for row in _lines(folder / "episodes.jsonl"))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


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


def reader_rows(run: RunData) -> list[dict[str, Any]]:
    """Every episode in the form that the page's script reads: evaluations first, then training."""
    rows = []
    for evaluation in run.evaluations:
        rows += [_episode(episode, evaluation.name, {}) for episode in evaluation.episodes]
    for part in run.rounds:
        labels = {(a.episode_id, a.turn): a for a in part.annotations}
        name = f"training, round {part.index}"
        rows += [_episode(episode, name, labels) for episode in part.episodes]
    return rows


def _episode(
    episode: Episode, name: str, labels: Mapping[tuple[str, int], Annotation]
) -> dict[str, Any]:
    turns = []
    for number, turn in enumerate(episode.turns):
        row: dict[str, Any] = {"seen": turn.observation, "who": turn.executor, "text": turn.text}
        row["seconds"] = round(turn.act_seconds + turn.step_seconds, 2)
        row["valid"] = turn.action is not None
        if beside := labels.get((episode.episode_id, number)):
            row["label"] = {
                "by": beside.annotator,
                "text": beside.text,
                "error": beside.error,
                "same": beside.executed or beside.text == turn.text,
            }
        turns.append(row)
    return {
        "set": name,
        "task": episode.instance_id,
        "repeat": episode.repeat,
        "status": episode.outcome.status,
        "stop": episode.stop_reason,
        "why": episode.outcome.reason,
        "seconds": round(episode.seconds, 1),
        "share": round(episode.teacher_share, 2),
        "system": episode.system_prompt,
        "turns": turns,
        "final": episode.final_observation,
        "patch": episode.patch,
        "tests": _tests(episode.outcome.tests),
    }


def _tests(tests: Mapping[str, str]) -> dict[str, Any]:
    """Counts of all tests, and those by name that a reader looks for: the ones that do not pass."""
    passing = ("PASSED", "XFAIL", "SKIPPED")
    listed = [[name, status] for name, status in sorted(tests.items()) if status not in passing]
    return {"counts": dict(Counter(tests.values())), "listed": listed[:LISTED_TESTS]}


def endings(run: RunData) -> dict[str, dict[str, int]]:
    """How episodes ended, ``{kind: {evaluation: count}}``: resolved first, then the commonest."""
    table: dict[str, Counter[str]] = {}
    for evaluation in run.evaluations:
        for episode in evaluation.episodes:
            status = episode.outcome.status.replace("_", " ")
            stop = episode.stop_reason.replace("_", " ")
            kind = status if status == "resolved" else f"{status} · {stop}"
            table.setdefault(kind, Counter())[evaluation.name] += 1
    order = sorted(table, key=lambda kind: (kind != "resolved", -table[kind].total()))
    return {kind: dict(table[kind]) for kind in order}
