"""Which runs a comparison is of, and which of them are the same method with other seeds.

A sweep's folder names its cells in sweep.json; else runs are given as folders, and what tells them
apart is their configuration. All that differs but the seed makes another method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.runs.folders import sweep_cells
from experiments.runs.naming import unnamed_sections
from experiments.runs.reader import RunData, read_run
from swe_gym_env.errors import SetupError

SEED = "seed"
PARTS = ("iteration0-", "teacher-")  # of runs, with the layout of one
METHOD = ("algorithm", "algorithm.name")  # what names a method first, if it differs
TOLD = 3  # settings in a label; what the others are stands in the configurations


@dataclass(frozen=True)
class Cell:
    """One run of a comparison. ``keys`` are its settings, ``run`` is None where there is no folder,
    ``status`` says how far it came."""

    folder: Path
    keys: Mapping[str, str]
    run: RunData | None
    status: str
    error: str = ""

    @property
    def seed(self) -> str:
        return self.keys.get(SEED, "?")

    @property
    def measured(self) -> bool:
        return bool(self.run and self.run.finished and self.run.evaluations)


@dataclass(frozen=True)
class Group:
    """A method: its finished runs, one for each seed, in the order of the seeds."""

    label: str
    cells: Sequence[Cell]

    @property
    def runs(self) -> list[RunData]:
        found = {cell.seed: cell.run for cell in self.cells if cell.measured and cell.run}
        return [found[seed] for seed in self.seeds]

    @property
    def seeds(self) -> list[str]:
        found = {cell.seed for cell in self.cells if cell.measured}
        return sorted(found, key=lambda s: (len(s), s))


def is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").exists()


def cells_of_sweep(folder: Path) -> list[Cell]:
    found = []
    for data in sweep_cells(folder):
        path = folder.parent / data["run"]
        keys = dict(one.lstrip("+").partition("=")[::2] for one in data["overrides"])
        found.append(_cell(path, _telling(keys), data["status"], data.get("error") or ""))
    if not found:
        raise SetupError(f"{folder} is a sweep without cells: start it first")
    # a cell's seed is the configuration's where the command does not say it
    return [_with_seed(cell) for cell in found]


def cells_of_folders(folders: Sequence[Path]) -> list[Cell]:
    found = []
    for folder in folders:
        if not (folder / "config.yaml").exists():
            raise SetupError(f"{folder} is no run folder: it has no config.yaml")
        if folder.resolve().name.startswith(PARTS):
            continue  # given by runs/*
        cell = _cell(folder, {}, "", "")
        assert cell.run
        found.append(replace(cell, keys=_telling(_flat(cell.run.settings))))
    if not found:
        raise SetupError("none of these folders is of a run, whose name begins with an algorithm's")
    return found


def _cell(path: Path, keys: Mapping[str, str], status: str, error: str) -> Cell:
    run = read_run(path) if path.exists() else None
    if run is None:
        status = status if status in ("failed", "waiting") else "missing"
    elif run.finished:
        status = "finished"
    else:
        status = status if status in ("failed", "running") else "not finished"
    return Cell(path, keys, run, status, error)


def _with_seed(cell: Cell) -> Cell:
    if SEED in cell.keys or cell.run is None or SEED not in cell.run.settings:
        return cell
    return replace(cell, keys={**cell.keys, SEED: str(cell.run.settings[SEED])})


def _telling(keys: Mapping[str, str]) -> dict[str, str]:
    """Without what cannot change a result; beta matters to the algorithms that hold it. The
    precision is the one that a run computed in, whether it was asked for or decided."""
    if "decided.dtype" in keys:
        keys = {**keys, "model.dtype": keys["decided.dtype"]}
    dull = unnamed_sections() - {"beta"} | {"hydra"}
    return {k: v for k, v in keys.items() if k.split(".")[0].split("/")[0] not in dull}


def _flat(data: Any, above: str = "") -> dict[str, str]:
    if not isinstance(data, Mapping):
        return {above: str(data)}
    found: dict[str, str] = {}
    for key, value in data.items():
        if key != "_target_" and not (key == "beta" and not above):
            found |= _flat(value, f"{above}.{key}" if above else str(key))
    return found


def grouped(cells: Sequence[Cell]) -> list[Group]:
    """In the order in which they come; labeled by what tells them apart."""
    members: dict[frozenset[tuple[str, str]], list[Cell]] = {}
    for cell in cells:
        own = frozenset((k, v) for k, v in cell.keys.items() if k != SEED)
        members.setdefault(own, []).append(cell)
    labels = _labels([dict(sorted(own)) for own in members])
    return [Group(label, found) for label, found in zip(labels, members.values(), strict=True)]


def _labels(settings: Sequence[Mapping[str, str]]) -> list[str]:
    def differing(some: Sequence[Mapping[str, str]]) -> list[str]:
        keys = dict.fromkeys(key for one in some for key in one)
        return [key for key in keys if len({one.get(key) for one in some}) > 1]

    method = next((key for key in METHOD if any(key in one for one in settings)), None)
    several = bool(method) and method in differing(settings)
    labels: list[str] = []
    for one in settings:
        same = [other for other in settings if not method or other.get(method) == one.get(method)]
        told = [
            f"{key.removeprefix('algorithm.')}={one.get(key, 'default')}" for key in differing(same)
        ]
        if len(told) > TOLD:
            told = [*told[:TOLD], f"and {len(told) - TOLD} more"]
        name = one.get(method or "", "")
        label = " ".join(([name] if several or not told else []) + told) or "all"
        twins = sum(other.partition(" (")[0] == label for other in labels)
        labels.append(f"{label} ({twins + 1})" if twins else label)
    return labels
