"""Our trainer behind the interface of :class:`algorithms.trainer.Trainer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from algorithms.engine.checkpoint import load_model
from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner
from algorithms.trainer import Trainer, TrainingJob


class EngineTrainer(Trainer):
    """Trains on token trees, with every loss that an Objective can name."""

    def train(self, job: TrainingJob) -> Mapping[str, Any]:
        """Of examples that teach nothing the student comes out as it was."""
        settings = job.settings
        trees = list(example_trees(job.examples, job.renderer, settings.max_tree_tokens))
        place = "cpu" if settings.sharding == "full" else None  # it is distributed from there
        model = load_model(job.checkpoint, job.dtype, place)
        learner = Learner(model, job.renderer.tokenizer, settings, job.objective)
        if not trees:
            learner.save(job.output)
            return {}
        job.progress(0, settings.epochs * sum(map(len, trees)), "")

        def progress(done: int, total: int, remark: str) -> None:
            job.progress(done, total, remark.rsplit(",", 1)[0])  # who shows it knows the speed

        report = learner.train(trees, progress, job.scratch)
        learner.save(job.output)
        return {
            "losses": report.loss,
            "grad_norms": report.grad_norm,
            "learning_rates": report.lr,
            **_measured(
                accuracies=report.accuracy, clipped=report.clipped, divergences=report.divergence
            ),
            "trees": report.trees,
            "trained_samples": report.trees * settings.epochs,
            "trees_dropped": report.dropped,
            "trained_tokens": report.tokens,
            "label_tokens": report.label_tokens,
            "train_seconds": round(report.seconds, 1),
            "tokens_per_second": round(report.tokens_per_second, 1),
        }


def _measured(**lists: list[float]) -> dict[str, list[float | None]]:
    """Without the measures that no token of the round carried; a step without tokens is None."""
    found = {n: [None if math.isnan(v) else v for v in values] for n, values in lists.items()}
    return {name: values for name, values in found.items() if any(v is not None for v in values)}
