"""A round on disk, safe against kill -9 at any moment.

    episodes.jsonl      one line per finished episode
    annotations.jsonl   one line per label; written before the episode that it belongs to
    scores.jsonl        one line per scored turn, written after all episodes
    teacher.jsonl       what the teacher cost, one line per batch, written as it happens
    metrics.json        written aside and renamed
    training/           how far a training has come that has not ended (algorithms/engine/resume.py)
    train.log           what its processes said, where it had any of its own
    checkpoint/         likewise written (algorithms/engine/checkpoint.py)
    PHASE.done          a phase (collect, score, train, evaluate) has ended

An episode counts once its line, newline included, is on disk. Lines are synced one by one, so a
kill loses at most the episodes in flight.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from algorithms.base import Round
from swe_gym_env.agents.budget import Spent
from swe_gym_env.disk import room_for
from swe_gym_env.text import unusable
from swe_gym_env.types import Annotation, Episode, Scores, from_dict, to_dict

log = logging.getLogger(__name__)

UNUSABLE = "format: the text holds"


class RoundFolder:
    """One round, or one evaluation, which is a round without training."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"

    def append(self, episode: Episode, annotations: Sequence[Annotation] = ()) -> None:
        """Add a finished episode. Only one process may write."""
        self.path.mkdir(parents=True, exist_ok=True)
        _append(self.path / "annotations.jsonl", [to_dict(a) for a in annotations])
        _append(self.path / "episodes.jsonl", [to_dict(episode)])

    def episodes(self) -> list[Episode]:
        """In order of their ids: the order in which they finished means nothing."""
        rows = (from_dict(Episode, row) for row in _lines(self.path / "episodes.jsonl"))
        found = {episode.episode_id: episode for episode in rows}
        return [found[key] for key in sorted(found)]

    def annotations(self) -> list[Annotation]:
        """Those of finished episodes; an episode that was killed and played again has only one."""
        finished = {episode.episode_id for episode in self.episodes()}
        found: dict[tuple[str, int, str], Annotation] = {}
        for row in _lines(self.path / "annotations.jsonl"):
            label = _usable(from_dict(Annotation, row))
            if label.episode_id in finished:
                found[label.episode_id, label.turn, label.annotator] = label
        return [found[key] for key in sorted(found)]

    def add_scores(self, scores: Sequence[Scores]) -> None:
        _append(self.path / "scores.jsonl", [to_dict(score) for score in scores])

    def scores(self) -> list[Scores]:
        """One for each (episode, turn, scorer), in their order."""
        rows = (from_dict(Scores, row) for row in _lines(self.path / "scores.jsonl"))
        found = {(row.episode_id, row.turn, row.scorer): row for row in rows}
        return [found[key] for key in sorted(found)]

    def add_annotations(self, annotations: Sequence[Annotation]) -> None:
        """Labels of stored episodes, by another annotator or in place of those that failed."""
        _append(self.path / "annotations.jsonl", [to_dict(a) for a in annotations])

    def add_spent(self, teacher: str, spent: Spent) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _append(self.path / "teacher.jsonl", [{"teacher": teacher, **to_dict(spent)}])

    def spent(self, teacher: str) -> Spent:
        """All that ``teacher`` was paid for this round, lost and repeated episodes included."""
        rows = (r for r in _lines(self.path / "teacher.jsonl") if r["teacher"] == teacher)
        return sum((from_dict(Spent, row) for row in rows), Spent())

    def finished_ids(self) -> set[str]:
        return {str(row["episode_id"]) for row in _lines(self.path / "episodes.jsonl")}

    def read(self, index: int) -> Round:
        """For training. Says how many labels of an old run cannot be learned."""
        labels = self.annotations()
        if broken := sum(label.error.startswith(UNUSABLE) for label in labels):
            log.warning("%s: %d labels left out, for half a character or NUL", self.path, broken)
        return Round(index, self.episodes(), labels, self.scores())

    def is_done(self, phase: str) -> bool:
        return (self.path / f"{phase}.done").exists()

    def mark_done(self, phase: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / f"{phase}.done").touch()

    def reopen(self, phase: str) -> None:
        (self.path / f"{phase}.done").unlink(missing_ok=True)

    @property
    def metrics(self) -> dict[str, Any]:
        """Empty where there are none yet."""
        try:
            return dict(json.loads((self.path / "metrics.json").read_text()))
        except FileNotFoundError:
            return {}

    def add_metrics(self, **values: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        aside = self.path / ".metrics.json"
        with room_for(self.path / "metrics.json"):
            aside.write_text(json.dumps({**self.metrics, **values}, indent=1) + "\n")
            aside.replace(self.path / "metrics.json")


def _usable(label: Annotation) -> Annotation:
    """A label that an older version stored with half a character in it is none: no tokenizer reads
    it. What a newer version refuses carries the same error."""
    fault = unusable(label.text) if label.text else ""
    return replace(label, text=None, error=f"format: {fault}") if fault else label


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    with room_for(path), path.open("a+b") as file:
        _drop_torn_line(file)
        file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def _drop_torn_line(file: Any) -> None:
    """Cut what follows the last newline, so that the next line does not stick to it."""
    end = position = file.seek(0, os.SEEK_END)
    while position > 0:
        low = max(0, position - 65536)
        file.seek(low)
        newline = file.read(position - low).rfind(b"\n")
        if newline >= 0:
            position = low + newline + 1
            break
        position = low
    if position < end:
        file.truncate(position)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: what follows the last newline was torn by a kill."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
