"""A round on disk, safe against kill -9 at any moment.

    episodes.jsonl      one line per finished episode
    annotations.jsonl   one line per label; written before the episode that it belongs to
    scores.jsonl        one line per scored turn, written after all episodes
    teacher.jsonl       what the teacher cost, one line per batch, written as it happens
    metrics.json        sums and rates, written aside and renamed
    training/           snapshot of a training that has not ended (algorithms/engine/resume.py)
    train.log           output of the training processes, if it had its own
    checkpoint/         also written aside and renamed (algorithms/engine/checkpoint.py)
    PHASE.done          a phase (collect, score, train, evaluate) has ended

An episode counts once its line, newline included, is on disk. Lines are synced one by one, so a
kill loses at most the episodes in flight. An episode that is played again gets a second line, and
the last one counts. Each line names its attempt, so that labels and scores of an earlier attempt
are not read as those of the last one. Whatever reads these files reads them through this module.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from swe_gym_env.disk import collection_paused, read_json, room_for, write_json
from swe_gym_env.policies.budget import Spent
from swe_gym_env.text import unusable
from swe_gym_env.types import Annotation, Episode, Scores, from_dict, to_dict

log = logging.getLogger(__name__)

T = TypeVar("T")
Beside = TypeVar("Beside", Annotation, Scores)
# By episode id: the episode and the tag of its attempt; files of older versions have no tags
Attempts = Mapping[str, tuple[Episode, str | None]]
ATTEMPT = "attempt"  # key of a line: equal in an episode's and in those of what belongs to it
FILES: dict[type, str] = {Annotation: "annotations.jsonl", Scores: "scores.jsonl"}
PADDING = b"\0\xef\xbb\xbf \t\r\n"  # zeros that a crash left, a byte-order mark, blanks
UNUSABLE = "format: the text holds"

_reported: set[tuple[Path, int]] = set()  # damaged lines


@dataclass(frozen=True)
class Round:
    """What one round left on disk."""

    index: int
    episodes: Sequence[Episode]
    annotations: Sequence[Annotation]
    scores: Sequence[Scores] = ()

    @cached_property
    def _scores(self) -> dict[str, dict[int, Scores]]:
        found: dict[str, dict[int, Scores]] = {}
        for score in self.scores:
            found.setdefault(score.episode_id, {})[score.turn] = score
        return found

    def scores_of(self, episode: Episode) -> dict[int, Scores]:
        """By turn; one that was not scored is not there."""
        return self._scores.get(episode.episode_id, {})


class RoundFolder:
    """One round, or one evaluation, which is a round without training."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"
        self._tags: dict[str, str | None] | None = None  # of the last attempts, once needed

    def append(self, episode: Episode, annotations: Sequence[Annotation] = ()) -> None:
        """Add a finished episode. Only one process may write."""
        self.path.mkdir(parents=True, exist_ok=True)
        tag = {ATTEMPT: secrets.token_hex(4)}
        _append(self.path / FILES[Annotation], [{**to_dict(a), **tag} for a in annotations])
        _append(self.path / "episodes.jsonl", [{**to_dict(episode), **tag}])
        self._tags = None

    def attempts(self) -> Attempts:
        """The last attempt of each episode. A caller that also reads labels or scores passes it to
        those methods, so that no file is read twice."""
        with collection_paused():
            rows = _rows(self.path / "episodes.jsonl", Episode)
            return {episode.episode_id: (episode, tag) for episode, tag in rows}

    def episodes(self) -> list[Episode]:
        """In order of their ids: the order in which they finished means nothing."""
        return in_order(self.attempts())

    def annotations(self, attempts: Attempts | None = None) -> list[Annotation]:
        """Those of finished episodes, one for each (episode, turn, annotator); none of an attempt
        that was killed or replaced by a later one."""
        labels = map(_usable, self._of_last(Annotation, attempts))
        found = {(a.episode_id, a.turn, a.annotator): a for a in labels}
        return [found[key] for key in sorted(found)]

    def add_scores(self, scores: Sequence[Scores]) -> None:
        self._add(Scores, scores)

    def scores(self, attempts: Attempts | None = None) -> list[Scores]:
        """One for each (episode, turn, scorer), in their order."""
        found = {(s.episode_id, s.turn, s.scorer): s for s in self._of_last(Scores, attempts)}
        return [found[key] for key in sorted(found)]

    def add_annotations(self, annotations: Sequence[Annotation]) -> None:
        """Labels of stored episodes, by another annotator or in place of those that failed."""
        self._add(Annotation, annotations)

    def _add(self, kind: type[Beside], values: Sequence[Beside]) -> None:
        """Beside the last attempts of stored episodes."""
        if self._tags is None:
            self._tags = {name: tag for name, (_, tag) in self.attempts().items()}
        tags = [self._tags.get(value.episode_id) for value in values]
        rows = [to_dict(value) for value in values]
        tagged = [
            {**row, ATTEMPT: tag} if tag else row for row, tag in zip(rows, tags, strict=True)
        ]
        _append(self.path / FILES[kind], tagged)

    def _of_last(self, kind: type[Beside], attempts: Attempts | None) -> list[Beside]:
        """What belongs to the last attempts, in the order in which it was written. Rows without a
        tag are of older versions: where the attempt has a tag and tagged rows, untagged rows before
        those belong to an earlier attempt."""
        path = self.path / FILES[kind]
        if not path.exists():
            return []
        last = self.attempts() if attempts is None else attempts
        with collection_paused():
            rows = [row for row in _rows(path, kind) if row[0].episode_id in last]
        first: dict[str, int] = {}  # place of the attempt's first tagged row
        for place, (value, tag) in enumerate(rows):
            if tag and tag == last[value.episode_id][1]:
                first.setdefault(value.episode_id, place)
        found = []
        for place, (value, tag) in enumerate(rows):
            episode, now = last[value.episode_id]
            untagged = tag is None and place > first.get(value.episode_id, -1)
            if (untagged or tag == now) and _fits(value, episode):
                found.append(value)
        return found

    def add_spent(self, teacher: str, spent: Spent) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _append(self.path / "teacher.jsonl", [{"teacher": teacher, **to_dict(spent)}])

    def spent(self, teacher: str) -> Spent:
        """All that ``teacher`` was paid for this round, lost and repeated episodes included."""
        rows = _lines(self.path / "teacher.jsonl")
        spent = (from_dict(Spent, row) for _, row in rows if row.get("teacher") == teacher)
        return sum(spent, Spent())

    def read(self, index: int) -> Round:
        """For training. Says how many labels of an old run cannot be learned."""
        attempts = self.attempts()
        labels = self.annotations(attempts)
        if broken := sum(label.error.startswith(UNUSABLE) for label in labels):
            log.warning("%s: %d labels left out, for half a character or NUL", self.path, broken)
        return Round(index, in_order(attempts), labels, self.scores(attempts))

    def is_done(self, phase: str) -> bool:
        return (self.path / f"{phase}.done").exists()

    def mark_done(self, phase: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / f"{phase}.done").touch()

    def reopen(self, phase: str) -> None:
        (self.path / f"{phase}.done").unlink(missing_ok=True)

    @property
    def metrics(self) -> dict[str, Any]:
        """Empty where there are none yet. SetupError where the file is damaged."""
        return dict(read_json(self.path / "metrics.json") or {})

    def add_metrics(self, **values: Any) -> None:
        write_json(self.path / "metrics.json", {**self.metrics, **values})


def in_order(attempts: Attempts) -> list[Episode]:
    """The episodes of :meth:`RoundFolder.attempts`, by their ids."""
    return [attempts[key][0] for key in sorted(attempts)]


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


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line of a .jsonl file; None where it holds none: it is blank, or damaged."""
    try:
        row = json.loads(line.strip(PADDING).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """With their numbers, and whole lines only: what follows the last newline was torn by a kill. A
    damaged line before it is reported, and counts as if it were not there."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") or not line.strip(PADDING):
                continue
            row = parsed(line)
            if row is None:
                _report(path, number, "is damaged")
            else:
                yield number, row


def _rows(path: Path, kind: type[T]) -> Iterator[tuple[T, str | None]]:
    """The values in a file, each with the tag of its attempt."""
    for number, row in _lines(path):
        try:
            value = from_dict(kind, row)
        except (TypeError, ValueError, AttributeError):
            _report(path, number, f"is no {kind.__name__.lower()}")
        else:
            yield value, row.get(ATTEMPT)


def _report(path: Path, number: int, what: str) -> None:
    """Once for each line in a process: files are read many times."""
    if (path, number) not in _reported:
        _reported.add((path, number))
        log.warning("%s, line %d %s and is left out", path, number, what)


def _fits(value: Annotation | Scores, episode: Episode) -> bool:
    """Whether the last attempt has such a turn. An attempt is recognized by its tag; where an older
    version wrote none, by the turns that the annotator executed."""
    if not 0 <= value.turn < len(episode.turns):
        return False
    turn = episode.turns[value.turn]
    executed = isinstance(value, Annotation) and value.executed
    return not executed or (turn.actor, turn.text) == ("teacher", value.text)  # type: ignore[union-attr]
