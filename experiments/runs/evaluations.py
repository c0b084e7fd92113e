"""Finished evaluations, read back as a comparison needs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.results.outcomes import DTYPE, ROWS, Outcomes, wanted
from experiments.runs import inputs, layout
from experiments.runs.folders import RunFolder
from experiments.runs.reader import load_config
from swe_gym_env.disk import read_json
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder

# Sections of the configuration whose values must agree for a fair comparison
MATTERS = ("limits", "actions", "history", "tasks.name", "tasks.build", "evaluation.split")


def find(folder: Path, only: tuple[str, ...] = ()) -> Outcomes:
    """The evaluation in ``folder``, or the last one of the finished run there.

    Args:
        folder: Of an evaluation or a run.
        only: Patterns of the ids of the tasks that count; empty for all.

    Raises:
        SetupError: There is none, or it has no such task.
    """
    if layout.has_episodes(folder):
        found = read(folder, only)
        if only and not found.episodes:
            raise SetupError(f"{folder} has no task whose id matches {' or '.join(only)}")
        return found
    run = RunFolder(folder)
    if summary := run.summary if folder.is_dir() else None:
        return find(run.evaluation(summary["evaluations"][-1]["name"]).path, only)
    raise SetupError(
        f"{folder} holds no evaluation: give runs/evaluation-..., runs/RUN/evaluations/NAME, "
        "or a finished runs/RUN"
    )


def read(folder: Path, only: tuple[str, ...] = ()) -> Outcomes:
    """The evaluation in ``folder``, finished or not."""
    stored = RoundFolder(folder)
    settings = _settings(folder)
    metrics = {} if only else stored.metrics  # they are of all tasks
    return Outcomes.of_episodes(
        folder,
        layout.evaluation_name(folder.absolute()),
        [e for e in stored.episodes() if wanted(e.instance_id, only)],
        cost=metrics.get("cost"),
        finished=stored.is_done("evaluate"),
        settings=settings,
    )


def _settings(evaluation: Path) -> dict[str, Any]:
    """What a comparison should find equal, one value a key. Empty if no config.yaml lies in the
    folder or above it (an evaluation that runs share lies in another's folder)."""
    place = evaluation.resolve()
    for folder in (place, *place.parents[:3]):
        if layout.is_configured(folder):
            found = _chosen(load_config(folder))
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
