"""TensorBoard and Weights & Biases, as plain options: ``tracking=tensorboard``, ``tracking=wandb``.

What is tracked is read from the run folder after each phase, never from a phase under way. So a
phase that is killed and repeated leaves one set of points, and a run that began without tracking
has all of them once it is continued with it.

Two axes: ``trained_samples``, the token trees trained on so far (each once for every epoch), for
losses and evaluations; ``round`` for what is collected and for times.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from experiments.runs.folders import RunFolder, phases_so_far
from experiments.runs.layout import ITERATION0, UNTRAINED, round_name
from swe_gym_env.disk import read_json, write_json
from swe_gym_env.errors import SetupError

# Names in metrics.json, and what they are called in plots
STEPS = {
    "losses": "loss",
    "grad_norms": "grad_norm",
    "learning_rates": "lr",
    "accuracies": "label_accuracy",
    "clipped": "clipped",
    "divergences": "divergence",
}
RATES = {"rate": "resolved", "low": "resolved_low", "high": "resolved_high"}  # 95 % interval
EPISODES = (*RATES, "mean_turns", "mean_tokens", "format_error_rate", "empty_patches")
COLLECTED = (*EPISODES, "teacher_share", "planned_teacher_share", "student_says_the_same")
COLLECTED += ("unlabeled", "teacher_calls", "teacher_generated_tokens", "teacher_scored_tokens")
COLLECTED += ("teacher_cost",)


@dataclass(frozen=True)
class Point:
    """``values`` of one group of plots, at a place on both axes."""

    group: str
    round: int
    samples: int
    values: dict[str, float]


class Tracker(Protocol):
    """Where points go. ``write`` is given each part of a run once, whole."""

    def written(self) -> set[str]: ...

    def write(self, part: str, points: list[Point]) -> None: ...

    def close(self) -> None: ...


def tracker(cfg: DictConfig, folder: RunFolder) -> Tracker:
    """SetupError where the package is missing or W&B refuses."""
    kinds: dict[str, Any] = {"none": Nowhere, "tensorboard": TensorBoard, "wandb": WandB}
    if cfg.tracking.name not in kinds:
        raise SetupError(f"tracking={cfg.tracking.name}: it is {', '.join(kinds)}")
    made: Tracker = kinds[cfg.tracking.name](cfg, folder)
    return made


def track(to: Tracker, folder: RunFolder) -> None:
    """Hands over what has been done since the last time."""
    if isinstance(to, Nowhere):
        return
    written = to.written()
    for part, points in parts(folder):
        if part not in written:
            to.write(part, points)


def parts(folder: RunFolder) -> Iterator[tuple[str, list[Point]]]:
    """All that the folder holds of phases that have ended, in the order of the rounds."""
    samples, index = 0, 0
    yield from _evaluation(folder, UNTRAINED, 0, 0)
    while (stored := folder.round(index)).path.exists():
        found = stored.metrics
        if stored.is_done("collect"):
            values = _numbers({name: found.get(name) for name in COLLECTED})
            yield f"{stored.path.name}-collect", [Point("collect", index, samples, values)]
        if not stored.is_done("train"):
            return
        seen = found.get("trained_samples", found.get("trees", 0))
        yield f"{stored.path.name}-train", _losses(found, index, samples, seen)
        samples += seen
        yield from _seconds(folder, index, samples)
        yield from _evaluation(folder, stored.path.name if index else ITERATION0, index, samples)
        index += 1


def _losses(found: dict[str, Any], index: int, before: int, seen: int) -> list[Point]:
    """The samples of a round are laid evenly over its optimizer steps."""
    steps = len(found.get("losses", ()))
    points = []
    for step in range(steps):
        at = before + round(seen * (step + 1) / steps)
        values = {new: found[name][step] for name, new in STEPS.items() if name in found}
        points.append(Point("train", index, at, _numbers(values)))
    return points


def _seconds(folder: RunFolder, index: int, samples: int) -> Iterator[tuple[str, list[Point]]]:
    """Wall time, what is shared with other runs included."""
    name, phases = round_name(index), phases_so_far(folder.path)
    kinds = {kind: phases.get(f"{kind} {name}") for kind in ("collect", "score", "train")}
    yield f"{name}-seconds", [Point("seconds", index, samples, _numbers(kinds))]


def _evaluation(
    folder: RunFolder, name: str, index: int, samples: int
) -> Iterator[tuple[str, list[Point]]]:
    stored = folder.evaluation(name)
    if stored.is_done("evaluate"):
        values = {key: stored.metrics.get(key) for key in EPISODES}
        values["seconds"] = phases_so_far(folder.path).get(f"evaluate {name}")
        yield f"{name}-evaluate", [Point("evaluate", index, samples, _numbers(values))]


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {RATES.get(k, k): float(v) for k, v in values.items() if v is not None}


class Nowhere:
    """tracking=none."""

    def __init__(self, cfg: DictConfig, folder: RunFolder) -> None: ...

    def written(self) -> set[str]:
        return set()

    def write(self, part: str, points: list[Point]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """One event file for each part of the run, written aside and renamed, so that none is there
    twice or by half. TensorBoard reads a folder's files in the order of their names."""

    def __init__(self, cfg: DictConfig, folder: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._writer = SummaryWriter
        self._folder = folder.path / "tensorboard"

    def _files(self) -> list[str]:
        return [path.name for path in self._folder.glob("events.out.tfevents.*")]

    def written(self) -> set[str]:
        return {name.split(".")[-1] for name in self._files()}

    def write(self, part: str, points: list[Point]) -> None:
        aside = self._folder.with_name(".tensorboard")
        shutil.rmtree(aside, ignore_errors=True)
        with self._writer(str(aside)) as writer:
            for point in points:
                by_samples = point.group in ("train", "evaluate")
                for name, value in point.values.items():
                    step = point.samples if by_samples else point.round
                    writer.add_scalar(f"{point.group}/{name}", value, step)
        self._folder.mkdir(exist_ok=True)
        (file,) = aside.iterdir()
        os.replace(file, self._folder / f"events.out.tfevents.{len(self._files()):04d}.{part}")
        aside.rmdir()

    def close(self) -> None: ...


class WandB:
    """One W&B run, whose id is the run folder's name, however often the run is continued. Which
    parts it has is kept beside its files."""

    def __init__(self, cfg: DictConfig, folder: RunFolder) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        section, name = cfg.tracking, folder.path.name
        if section.mode not in ("online", "offline"):
            raise SetupError(f"tracking.mode={section.mode}: it is online or offline")
        self._ledger = folder.path / "wandb" / f"written-{section.mode}.json"
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=section.project,
                entity=section.entity,
                mode=section.mode,
                id=name,
                name=name,
                group=cfg.algorithm.name,
                resume="allow" if section.mode == "online" else None,
                dir=folder.path,
                config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise SetupError(
                f"tracking=wandb: {error}\nLog in (wandb login), or take tracking.mode=offline"
            ) from None
        for group, axis in (("train", "trained_samples"), ("evaluate", "trained_samples")):
            self._run.define_metric(f"{group}/*", step_metric=axis)
        for group in ("collect", "seconds"):
            self._run.define_metric(f"{group}/*", step_metric="round")

    def _known(self) -> dict[str, Any]:
        return read_json(self._ledger) or {"rows": 0, "parts": []}

    def written(self) -> set[str]:
        return set(self._known()["parts"])

    def write(self, part: str, points: list[Point]) -> None:
        known = self._known()
        for row, point in enumerate(points, known["rows"]):
            values = {f"{point.group}/{name}": value for name, value in point.values.items()}
            axes = {"round": point.round, "trained_samples": point.samples}
            self._run.log({**axes, **values}, step=row)
        rows = known["rows"] + len(points)
        write_json(self._ledger, {"rows": rows, "parts": [*known["parts"], part]})

    def close(self) -> None:
        self._run.finish()


def _missing(package: str) -> SetupError:
    return SetupError(
        f"tracking={package}: {package} is not installed here: pip install -e '.[{package}]'"
    )
