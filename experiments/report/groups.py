"""Which runs a comparison is of, and which of them are the same method with other seeds.

A sweep's folder names its runs; else runs are given as folders, and what distinguishes them is
their configuration. All that differs but the seed makes another method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.runs import layout, sweep
from experiments.runs.naming import unnamed_sections
from experiments.runs.reader import StoredRun, read_run
from swe_gym_env.errors import SetupError

SEED = "seed"
PARTS = ("iteration0-", "teacher-")  # of runs, with the layout of one
METHOD = ("algorithm", "algorithm.name")  # what names a method first, if it differs
SHOWN = 3  # settings in a label; the others are in the configurations


@dataclass(frozen=True)
class Member:
    """One run of a comparison.

    Attributes:
        folder: Where it is, or would be.
        keys: Its settings.
        run: None if there is no folder.
        status: How far it came.
        error: Why it failed, if it did.
    """

    folder: Path
    keys: Mapping[str, str]
    run: StoredRun | None
    status: str
    error: str = ""

    @property
    def seed(self) -> str:
        return self.keys.get(SEED, "?")

    @property
    def measured(self) -> bool:
        return bool(self.run and self.run.finished and self.run.measured)


@dataclass(frozen=True)
class Group:
    """A method: its finished runs, one for each seed, in the order of the seeds."""

    label: str
    members: Sequence[Member]

    @property
    def runs(self) -> list[StoredRun]:
        found = {one.seed: one.run for one in self.members if one.measured and one.run}
        return [found[seed] for seed in self.seeds]

    @property
    def seeds(self) -> list[str]:
        found = {one.seed for one in self.members if one.measured}
        return sorted(found, key=lambda s: (len(s), s))


def runs_of_sweep(folder: Path) -> list[Member]:
    found = []
    for data in sweep.cells(folder):
        path = folder.parent / data["run"]
        keys = dict(one.lstrip("+").partition("=")[::2] for one in data["overrides"])
        found.append(_member(path, _telling(keys), data["status"], data.get("error") or ""))
    if not found:
        raise SetupError(f"{folder} is a sweep without runs: start it first")
    # a run's seed is the configuration's where the command does not say it
    return [_with_seed(one) for one in found]


def runs_of_folders(folders: Sequence[Path]) -> list[Member]:
    found = []
    for folder in folders:
        if not layout.is_configured(folder):
            raise SetupError(f"{folder} is no run folder: it has no config.yaml")
        if folder.resolve().name.startswith(PARTS):
            continue  # given by runs/*
        cell = _member(folder, {}, "", "")
        assert cell.run
        found.append(replace(cell, keys=_telling(_flat(cell.run.settings))))
    if not found:
        raise SetupError("none of these folders is of a run, whose name begins with an algorithm's")
    return found


def _member(path: Path, keys: Mapping[str, str], status: str, error: str) -> Member:
    run = read_run(path) if path.exists() else None
    if run is None:
        status = status if status in ("failed", "waiting") else "missing"
    elif run.finished:
        status = "finished"
    else:
        status = status if status in ("failed", "running") else "not finished"
    return Member(path, keys, run, status, error)


def _with_seed(one: Member) -> Member:
    if SEED in one.keys or one.run is None or SEED not in one.run.settings:
        return one
    return replace(one, keys={**one.keys, SEED: str(one.run.settings[SEED])})


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


def grouped(members: Sequence[Member]) -> list[Group]:
    """In the order in which they come; labeled by the settings in which they differ."""
    methods: dict[frozenset[tuple[str, str]], list[Member]] = {}
    for one in members:
        settings = frozenset((k, v) for k, v in one.keys.items() if k != SEED)
        methods.setdefault(settings, []).append(one)
    labels = _labels([dict(sorted(settings)) for settings in methods])
    return [Group(label, runs) for label, runs in zip(labels, methods.values(), strict=True)]


def _labels(settings: Sequence[Mapping[str, str]]) -> list[str]:
    def differing(some: Sequence[Mapping[str, str]]) -> list[str]:
        keys = dict.fromkeys(key for one in some for key in one)
        return [key for key in keys if len({one.get(key) for one in some}) > 1]

    method = next((key for key in METHOD if any(key in one for one in settings)), None)
    several = bool(method) and method in differing(settings)
    labels: list[str] = []
    for one in settings:
        same = [other for other in settings if not method or other.get(method) == one.get(method)]
        differs = [
            f"{key.removeprefix('algorithm.')}={one.get(key, 'default')}" for key in differing(same)
        ]
        if len(differs) > SHOWN:
            differs = [*differs[:SHOWN], f"and {len(differs) - SHOWN} more"]
        name = one.get(method or "", "")
        label = " ".join(([name] if several or not differs else []) + differs) or "all"
        twins = sum(other.partition(" (")[0] == label for other in labels)
        labels.append(f"{label} ({twins + 1})" if twins else label)
    return labels
