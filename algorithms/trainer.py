"""What trains a round: from training examples and a checkpoint to the next checkpoint.

The pipeline collects a round, asks the algorithm for training examples, and hands both to a
:class:`Trainer`. Ours (``algorithms/engine/trainer.py``) is one of them; ``examples/trl_sft.py``
puts TRL's in its place. ``trainer._target_`` of the configuration names the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.base import Algorithm, TrainingExample
from algorithms.objective import Objective

if TYPE_CHECKING:
    import torch

    from algorithms.engine.learner import TrainingConfig
    from algorithms.engine.rendering import Renderer


@dataclass(frozen=True)
class TrainingJob:
    """One round to train on.

    Attributes:
        examples: What to learn; at least one target has a weight. ``example_trees``
            (``algorithms/engine/examples.py``) makes token trees of them, ``token_sequences`` and
            ``conversations`` (``algorithms/engine/export.py``) plain sequences.
        objective: The loss to descend.
        checkpoint: Hugging Face folder of the student that the round begins with; an adapter's
            folder where the trainer before left one.
        output: Where to leave the trained student, as a Hugging Face folder with its tokenizer.
            What an interrupted training left there must be replaced.
        scratch: Folder for what the trainer needs to continue after an interruption. It need not
            exist, and is deleted when the round is trained.
        renderer: The student's tokenizer (``renderer.tokenizer``) and chat template.
        settings: The section ``training`` of the configuration, with the epochs and the learning
            rate of this round.
        dtype: In which the student computes.
        progress: Takes steps done, steps in all and a short remark. Any unit will do.
    """

    examples: Sequence[TrainingExample]
    objective: Objective
    checkpoint: Path
    output: Path
    scratch: Path
    renderer: Renderer
    settings: TrainingConfig
    dtype: torch.dtype
    progress: Callable[[int, int, str], None]


class Trainer(ABC):
    """Trains a student on the examples of one round."""

    def check(self, algorithm: Algorithm, settings: TrainingConfig) -> None:
        """Called before the first episode. Raises ValueError if it cannot train this method."""
        return None

    @abstractmethod
    def train(self, job: TrainingJob) -> Mapping[str, Any]:
        """Leaves the trained student in ``job.output``.

        Under a launcher such as torchrun every process calls this; one of them writes.

        Returns:
            What to keep in the round's metrics.json, as JSON. Lists with one number for each
            optimizer step named ``losses``, ``grad_norms`` and ``learning_rates`` appear in reports
            and plots.

        Raises:
            ValueError: The examples or the settings are not what this trainer can do.
        """
