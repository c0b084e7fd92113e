"""A finished evaluation, read back from its folder: of a run, or made by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from swe_gym_env.rollout.store import RoundFolder
from experiments.runs import inputs
from experiments.results import predictions
from experiments.results.outcomes import wanted
from experiments.runs.folders import read_json
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode

ROWS = "the digest of the file of tasks"  # where the run remembers it
# Sections of the configuration whose values must agree for a fair comparison
DTYPE = "model.dtype"  # in which a model computed: of an endpoint or the expert nobody knows it
MATTERS = ("limits", "actions", "history", "tasks.name", "tasks.build", "evaluation.split")


@dataclass(frozen=True)
class Stored:
    """``path`` holds episodes.jsonl. ``only``: patterns of the ids that count; empty for all."""

    path: Path
    only: tuple[str, ...] = ()

    @classmethod
    def find(cls, folder: Path, only: tuple[str, ...] = ()) -> Stored:
        """``folder`` is an evaluation's, or a finished run's, of which the last counts. Raises
        SetupError."""
        if (folder / "episodes.jsonl").is_file():
            found = cls(folder, only)
            if only and not found.episodes:
                raise SetupError(f"{folder} has no task whose id matches {' or '.join(only)}")
            return found
        summary = read_json(folder / "summary.json") if folder.is_dir() else None
        if summary:
            return cls.find(folder / "evaluations" / summary["evaluations"][-1]["name"], only)
        raise SetupError(
            f"{folder} holds no evaluation: give runs/evaluation-..., runs/RUN/evaluations/NAME, "
            "or a finished runs/RUN"
        )

    @property
    def name(self) -> str:
        return predictions.name(self.path.absolute())

    @cached_property
    def episodes(self) -> list[Episode]:
        found = RoundFolder(self.path).episodes()
        return [episode for episode in found if wanted(episode.instance_id, self.only)]

    @property
    def valid(self) -> list[Episode]:
        return [episode for episode in self.episodes if not episode.outcome.mask]

    @property
    def faults(self) -> int:
        return len(self.episodes) - len(self.valid)

    @cached_property
    def resolved(self) -> dict[str, float]:
        """The share of each task's samples that resolved it; NaN where the machinery spoilt all."""
        found: dict[str, list[bool]] = {episode.instance_id: [] for episode in self.episodes}
        for episode in self.valid:
            found[episode.instance_id].append(episode.outcome.resolved)
        return {task: sum(own) / len(own) if own else float("nan") for task, own in found.items()}

    @property
    def sampled(self) -> bool:
        """Has some task several episodes?"""
        return len(self.episodes) > len(self.resolved)

    @property
    def seed(self) -> int:
        return self.episodes[0].seed if self.episodes else 0

    @property
    def finished(self) -> bool:
        return RoundFolder(self.path).is_done("evaluate")

    @cached_property
    def measured(self) -> dict[str, Any]:
        return {} if self.only else RoundFolder(self.path).metrics  # which are of all tasks

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a comparison should find equal, one value a key. Empty where no config.yaml lies in
        the folder or above it (an evaluation that runs share lies in another's folder)."""
        place = self.path.resolve()
        for folder in (place, *place.parents[:3]):
            if (folder / "config.yaml").is_file():
                found = _chosen(OmegaConf.load(folder / "config.yaml"))
                rows = (read_json(folder / inputs.FILE) or {}).get("inputs", {}).get("tasks")
                return found | ({ROWS: rows["content"][:10]} if rows else {})
        return {}


def _chosen(cfg: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    samples = OmegaConf.select(cfg, "evaluation.samples")
    for key in (*MATTERS, *(("sampling",) if samples else ())):
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            found[key] = value
    if OmegaConf.select(cfg, "evaluation.who") != "teacher":
        asked = OmegaConf.select(cfg, DTYPE)
        found[DTYPE] = OmegaConf.select(cfg, "decided.dtype") or asked
    return {**found, "evaluation.samples": samples}
