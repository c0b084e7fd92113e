"""How long one pass of the training takes."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from experiments.plan import memory
from experiments.plan.hardware import CPU, TRAIN_SHARE, Roofline, gpu


def epoch_seconds(cfg: DictConfig, trees: Sequence[int], groups: int, cpu: CPU, gpus: int) -> float:
    """``trees`` in tokens, of ``groups`` that share a place in an optimizer step; on ``gpus`` GPUs,
    or 0: on ``cpu``. GPUs take the rows of a step in turn; the last one that works makes the others
    wait."""
    training = cfg.training
    batch = max(1, round(training.batch_size * len(trees) / max(groups, 1)))
    steps = [trees[low : low + batch] for low in range(0, len(trees), batch)]
    if not gpus:
        return sum(trees) / cpu.train + len(steps) * cpu.update
    chip = gpu(cfg.cluster.gpu)
    roof = Roofline(memory.student_shape(cfg), chip, 1, cfg.plan.gpu, 0.0)
    total = 0.0
    for step in steps:
        rows = [roof.flops(tokens, 0) for tokens in _rows(step, training.micro_batch_tokens)]
        ranks = min(gpus, len(rows))
        total += max(sum(rows[rank::ranks]) for rank in range(ranks))
    passes = 4 if training.checkpointing else 3
    return total * passes / (chip.flops * TRAIN_SHARE)


def _rows(trees: Sequence[int], budget: int) -> list[int]:
    """Tokens of the packed rows of one optimizer step, as algorithms/engine/learner.py packs
    them."""
    rows: list[int] = []
    for tree in sorted(trees):
        if rows and rows[-1] + tree <= budget:
            rows[-1] += tree
        else:
            rows.append(tree)
    return rows
