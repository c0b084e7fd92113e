"""What a stored run was trained on, made again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.pipeline.build import stored_context
from experiments.pipeline.round import training_examples
from experiments.runs.folders import RunFolder

if TYPE_CHECKING:
    from algorithms.base import TrainingExample
    from algorithms.engine.rendering import Renderer


class StoredTraining:
    """The training examples of a stored run, and the renderer of their tokens."""

    def __init__(self, run: Path) -> None:
        """Raises SetupError if the folder holds no run, or the run's model has changed."""
        self._run, self._context = RunFolder(run), stored_context(run)

    @property
    def renderer(self) -> Renderer:
        return self._context.student.renderer

    def examples(self, index: int) -> list[TrainingExample]:
        """What round ``index`` was trained on. Raises SetupError."""
        folders = [self._run.round(n) for n in range(index + 1)]
        return training_examples(self._context.algorithm_of(index), folders)
