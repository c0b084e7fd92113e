"""What a stored run was trained on, made again from its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.pipeline.build import Parts
from experiments.runs.folders import RunFolder
from experiments.runs.inputs import refuse_changed
from experiments.runs.reader import load_config
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from algorithms.base import TrainingExample
    from algorithms.engine.rendering import Renderer


class StoredTraining:
    """The training examples of a stored run, and the renderer of their tokens."""

    def __init__(self, run: Path) -> None:
        """Raises SetupError if its configuration names no model, or the model has changed."""
        cfg = load_config(run)
        if "model" not in cfg:
            raise SetupError(f"{run}: its configuration names no model")
        refuse_changed(run, cfg, "model")
        self._run, self._parts = RunFolder(run), Parts(cfg)

    @property
    def renderer(self) -> Renderer:
        return self._parts.renderer

    def examples(self, index: int) -> Iterator[TrainingExample]:
        """What round ``index`` was trained on, as ``experiments/pipeline/round.py`` asks for it."""
        rounds = [self._run.round(number).read(number) for number in range(index + 1)]
        algorithm = self._parts.algorithm if index else self._parts.iteration0
        try:
            yield from algorithm.examples(rounds)
        except ValueError as error:
            raise SetupError(f"round {index}: {error}") from None
