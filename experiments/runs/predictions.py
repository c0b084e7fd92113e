"""Patches in SWE-bench's form, for ``swebench eval`` and for ``python -m swe_gym_env grade``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from experiments.runs.layout import evaluation_name
from swe_gym_env.disk import room_for
from swe_gym_env.types import Episode


def write(folder: Path, episodes: Iterable[Episode]) -> list[Path]:
    """preds.jsonl in ``folder``, or, of several samples of a task, preds-1.jsonl, preds-2.jsonl and
    so on: the harness takes one prediction for a task. Episodes that an infrastructure error ended
    say nothing and are left out."""
    samples: dict[int, list[Episode]] = {}
    for episode in episodes:
        samples.setdefault(episode.repeat, []).append(episode)
    files = []
    for repeat, played in sorted(samples.items()):
        path = folder / ("preds.jsonl" if len(samples) == 1 else f"preds-{repeat + 1}.jsonl")
        rows = [_row(folder, episode) for episode in played if not episode.outcome.mask]
        with room_for(path):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(path)
    return files


def _row(folder: Path, episode: Episode) -> dict[str, str]:
    return {
        "instance_id": episode.instance_id,
        "model_name_or_path": evaluation_name(folder),
        "model_patch": episode.patch,
    }
