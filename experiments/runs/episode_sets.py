"""All sets of episodes below a folder, whatever it is: a run, an evaluation, a sweep, many runs.

Every folder with an ``episodes.jsonl`` is one set. A killed run has fewer of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.runs import layout, sweep
from experiments.runs.reader import EpisodeSet
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder

DEEPEST = 5  # folders between the one asked for and a set


def find(folder: Path) -> list[EpisodeSet]:
    """Evaluations in the order of training, then rounds; a folder that two runs share only once.

    Raises SetupError if there is none, or if a newer version wrote one of the runs.
    """
    if runs := sweep.run_folders(folder):
        begun = [run for run in runs if run.is_dir()]
        found = _once(one for run in begun for one in _sets(run, run.parent, True))
    else:
        several = not layout.has_run(folder) and any(map(layout.has_run, _folders(folder)))
        found = _once(_sets(folder, folder, several))
    if not found:
        raise SetupError(
            f"{folder} holds no {layout.EPISODES}, nor does a folder in it: give a run folder, an "
            "evaluation, a sweep, or a folder of runs"
        )
    for run in {one.run for one in found if one.run}:
        layout.check_format(run)
    return found


def _sets(folder: Path, above: Path, several: bool) -> Iterator[EpisodeSet]:
    for path in sorted(_below(folder), key=lambda path: _order(path, above)):
        yield _named(path, above, several)


def _once(sets: Iterable[EpisodeSet]) -> list[EpisodeSet]:
    found: dict[Path, EpisodeSet] = {}
    for one in sets:
        found.setdefault(one.folder.path.resolve(), one)
    return list(found.values())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _below(folder: Path) -> Iterator[Path]:
    """Folders with episodes; links to folders are followed."""
    for path, folders, files in os.walk(folder, followlinks=True):
        here = Path(path)
        deep = len(here.relative_to(folder).parts) >= DEEPEST
        folders[:] = [f for f in folders if f[0] != "." and f != layout.CHECKPOINT and not deep]
        if layout.EPISODES in files:
            yield here


def _order(path: Path, folder: Path) -> tuple[Any, ...]:
    """The run that owns a set before those that link to it; evaluations before training."""
    parts = path.relative_to(folder).parts
    linked = path.resolve() != path.absolute()
    training = layout.ROUNDS in parts
    first = layout.FIRST
    place = first.index(path.name) if path.name in first else len(first)
    return (training, linked and not layout.has_run(folder), parts[:-1], place, path.name)


def _named(path: Path, folder: Path, several: bool) -> EpisodeSet:
    parts = path.relative_to(folder).parts
    prefix = f"{parts[0]}: " if several else ""
    stored = RoundFolder(path)
    for part in (layout.ROUNDS, layout.EVALUATIONS):
        if part not in parts:
            continue
        run = folder.joinpath(*parts[: parts.index(part)])
        number = layout.round_number(path.name)
        if part == layout.ROUNDS and number is not None:
            return EpisodeSet(f"{prefix}training, round {number}", stored, number, True, run)
        name = prefix + layout.evaluation_label(path.name)
        return EpisodeSet(name, stored, layout.evaluation_round(path.name), run=run)
    return EpisodeSet("/".join(parts) or folder.resolve().name, stored)
