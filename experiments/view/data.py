"""What the episode reader shows, read from the files that a run leaves.

Every ``episodes.jsonl`` below the folder is one set: an evaluation, a round of training, or what
else lies there. A killed run has fewer of them, which is no fault. What is needed to list and to
filter goes into one small row for each episode; the rest of it, the body, is only read when it is
opened.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results.summary import ITERATION0, UNTRAINED, label
from experiments.runs.folders import sweep_cells
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Episode, Turn

EPISODES = "episodes.jsonl"
DEEPEST = 5  # folders between the one asked for and a set
LISTED_TESTS = 200  # per episode, of those that do not pass; the others are counted
PASSING = ("PASSED", "XFAIL", "SKIPPED")
FIRST = (UNTRAINED, ITERATION0)


@dataclass(frozen=True)
class EpisodeSet:
    """The episodes of one file. ``round`` is that of a training set, ``run`` the folder of its run,
    which is empty where the file belongs to none."""

    name: str
    path: Path
    round: int | None = None
    run: Path | None = None

    def read(self) -> tuple[list[Episode], dict[tuple[str, int], list[Annotation]]]:
        """The episodes, and the labels of each turn."""
        folder = RoundFolder(self.path)
        labels: dict[tuple[str, int], list[Annotation]] = {}
        for one in folder.annotations():
            labels.setdefault((one.episode_id, one.turn), []).append(one)
        return folder.episodes(), labels


def episode_sets(folder: Path) -> list[EpisodeSet]:
    """Evaluations in the order of training, then rounds; a file that two runs share only once.

    SetupError where there is none.
    """
    if cells := sweep_cells(folder):
        begun = [folder.parent / cell["run"] for cell in cells]
        begun = [run for run in begun if run.is_dir()]
        found = _once(one for run in begun for one in _sets(run, run.parent, True))
    else:
        several = not _is_run(folder) and any(_is_run(child) for child in _folders(folder))
        found = _once(_sets(folder, folder, several))
    if not found:
        raise SetupError(
            f"{folder} holds no {EPISODES}, nor does a folder in it: give a run folder, an "
            "evaluation, a sweep, or a folder of runs"
        )
    return found


def _sets(folder: Path, above: Path, several: bool) -> Iterator[EpisodeSet]:
    for path in sorted(_below(folder), key=lambda path: _order(path, above)):
        yield _named(path, above, several)


def _once(sets: Iterable[EpisodeSet]) -> list[EpisodeSet]:
    found: dict[Path, EpisodeSet] = {}
    for one in sets:
        found.setdefault(one.path.resolve(), one)
    return list(found.values())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _is_run(folder: Path) -> bool:
    return (folder / "rounds").is_dir() or (folder / "evaluations").is_dir()


def _below(folder: Path) -> Iterator[Path]:
    """Folders with episodes; links to folders are followed."""
    for path, folders, files in os.walk(folder, followlinks=True):
        here = Path(path)
        deep = len(here.relative_to(folder).parts)
        folders[:] = [f for f in folders if f[0] != "." and f != "checkpoint" and deep < DEEPEST]
        if EPISODES in files:
            yield here


def _order(path: Path, folder: Path) -> tuple[Any, ...]:
    """Runs whose own it is before those that link to it; evaluations before training."""
    parts = path.relative_to(folder).parts
    linked = path.resolve() != path.absolute()
    training = "rounds" in parts
    place = FIRST.index(path.name) if path.name in FIRST else len(FIRST)
    return (training, linked and not _is_run(folder), parts[:-1], place, path.name)


def _named(path: Path, folder: Path, several: bool) -> EpisodeSet:
    parts = path.relative_to(folder).parts
    prefix = f"{parts[0]}: " if several else ""
    for part in ("rounds", "evaluations"):
        if part not in parts:
            continue
        run = folder.joinpath(*parts[: parts.index(part)])
        number = re.fullmatch(r"round_(\d+)", path.name)
        if part == "rounds" and number:
            index = int(number[1])
            return EpisodeSet(f"{prefix}training, round {index}", path, index, run)
        known = number or path.name in FIRST
        return EpisodeSet(prefix + (label(path.name) if known else path.name), path, run=run)
    return EpisodeSet("/".join(parts) or folder.resolve().name, path)


def repository(instance_id: str) -> str:
    """``owner/name`` out of a task's id, as the known data sets build it; what stands before the
    first ``__`` where it is built in no such way."""
    owner, _, rest = instance_id.partition("__")
    name = re.sub(r"(?:-\d+|[-.][0-9a-f]{7,40}(?:\..*)?)$", "", rest)
    if not rest or name == rest:
        return owner
    return name if owner == "pypi" else f"{owner}/{name}"


def same_action(turn: Turn, other: Annotation) -> bool:
    """Whether a label does what the executed turn did; the thoughts before it may differ."""
    if other.executed or other.text == turn.text:
        return True
    if turn.action is None or other.action is None:
        return False
    mine, theirs = turn.action, other.action
    return (mine.name, dict(mine.arguments)) == (theirs.name, dict(theirs.arguments))


def row(episode: Episode, labels: Mapping[tuple[str, int], Sequence[Annotation]]) -> dict[str, Any]:
    """What is listed, filtered and sorted by. ``divergence`` is the first turn in which a label is
    there and does something else, -1 where there is none."""
    apart = [
        number
        for number, turn in enumerate(episode.turns)
        for one in labels.get((episode.episode_id, number), ())
        if one.text is not None and not same_action(turn, one)
    ]
    return {
        "id": episode.episode_id,
        "task": episode.instance_id,
        "repository": repository(episode.instance_id),
        "repeat": episode.repeat,
        "seed": episode.seed,
        "status": episode.outcome.status,
        "stop": episode.stop_reason,
        "turns": len(episode.turns),
        "teacher": sum(turn.actor == "teacher" for turn in episode.turns),
        "divergence": min(apart, default=-1),
        "seconds": round(episode.seconds, 1),
    }


def body(
    episode: Episode, labels: Mapping[tuple[str, int], Sequence[Annotation]]
) -> dict[str, Any]:
    """All else that the page shows of an episode. ``patch`` of a turn is null where it was not
    written down, which is where it stayed as it was, or was not looked at."""
    turns = []
    for number, turn in enumerate(episode.turns):
        beside = labels.get((episode.episode_id, number), ())
        turns.append(
            {
                "seen": turn.observation,
                "who": turn.actor,
                "text": turn.text,
                "valid": turn.action is not None,
                "seconds": round(turn.act_seconds + turn.step_seconds, 2),
                "patch": turn.patch,
                "labels": [_label(turn, one) for one in beside if not one.executed],
            }
        )
    return {
        "system": episode.system_prompt,
        "turns": turns,
        "final": episode.final_observation,
        "patch": episode.patch,
        "why": episode.outcome.reason,
        "tests": _tests(episode.outcome.tests),
    }


def _label(turn: Turn, one: Annotation) -> dict[str, Any]:
    same = same_action(turn, one)
    return {"by": one.annotator, "text": one.text, "error": one.error, "same": same}


def _tests(tests: Mapping[str, str]) -> dict[str, Any]:
    listed = [[name, status] for name, status in sorted(tests.items()) if status not in PASSING]
    counts = dict(Counter(tests.values()).most_common())
    return {"counts": counts, "listed": listed[:LISTED_TESTS], "more": len(listed[LISTED_TESTS:])}
