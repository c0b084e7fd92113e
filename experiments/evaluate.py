"""One evaluation for every policy: the student alone, greedy, on held-out tasks.

A run calls :func:`evaluate`; ``python -m experiments.evaluate model.path=FOLDER`` measures a
checkpoint by itself. Killed, it goes on with the episodes that are missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from algorithms.engine.rounds import RoundFolder
from experiments import metrics, preflight
from experiments.build import Parts
from experiments.cli import HYDRA, explain_unknown, guarded
from experiments.folders import RunFolder, digest, read_json, resolved, write_json
from experiments.play import play
from experiments.progress import Display
from experiments.selection import select
from experiments.statistics import Rate
from swe_gym_env.agents.mixers import StudentOnly
from swe_gym_env.agents.rollout import Request

# What only training looks at
NOT_MEASURED = ("algorithm", "rounds", "episodes_per_round", "iteration0", "training", "overlap")


def evaluate(
    parts: Parts,
    folder: RoundFolder,
    requests: Sequence[Request],
    checkpoint: Path | None,
    display: Display,
    title: str,
) -> dict[str, Any]:
    """Writes episodes.jsonl and metrics.json into ``folder``; does nothing where they stand."""
    if folder.is_done("evaluate"):
        return folder.metrics
    play(
        folder,
        requests,
        parts,
        display=display,
        title=title,
        student=parts.student(checkpoint, temperature=0.0, top_p=1.0),
        mixer=StudentOnly(),
    )
    folder.add_metrics(
        split=parts.cfg.evaluation.split,
        model=parts.cfg.model.name,
        checkpoint=str(checkpoint or parts.start),
        **metrics.of_episodes(folder.episodes()),
    )
    folder.mark_done("evaluate")
    return folder.metrics


def _alone(cfg: DictConfig, display: Display) -> None:
    name = f"evaluation-{cfg.model.name}-{digest(resolved(cfg, NOT_MEASURED))}"
    folder = RunFolder(Path(cfg.paths.runs).absolute() / name)
    preflight.check(cfg)
    with folder.lock():
        folder.start(cfg)
        tasks = select(cfg, read_json(folder.path / "tasks.json"), display)
        write_json(folder.path / "tasks.json", tasks.ids)
        with contextlib.closing(Parts(cfg)) as parts:
            measured = evaluate(
                parts, RoundFolder(folder.path), tasks.evaluation(), None, display, "evaluate"
            )
    rate = Rate(measured["resolved"], measured["n"], measured["low"], measured["high"])
    display.console.print(f"{cfg.model.path}: resolved {rate.resolved} of {rate.n}, {rate}")
    display.console.print(f"episodes and metrics: {folder.path}")


@hydra.main(**HYDRA)
def main(cfg: DictConfig) -> None:
    guarded(_alone, cfg, "experiments.evaluate")


if __name__ == "__main__":
    with explain_unknown():
        main()
