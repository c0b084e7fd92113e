"""The settings of a training. Imports no torch, so that a configuration is checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The section ``training`` of a configuration has the same keys and defaults.

    Attributes:
        lr: Peak learning rate.
        batch_size: Trees per optimizer step; the trees of one group count as one.
        epochs: Passes over all trees, each in another order.
        warmup_steps: Optimizer steps of linear warm-up.
        lr_end: Learning rate at the last step as a fraction of ``lr``, reached linearly.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Global gradient norm above which gradients are scaled down.
        micro_batch_tokens: Tokens in one packed row; a longer tree is a row alone.
        max_tree_tokens: Longer trees are dropped (``TrainReport.dropped``).
        lora_rank: Rank of the LoRA adapter to train; 0 trains all weights.
        checkpointing: Compute each layer again in the backward pass: less memory, a third more
            time.
        sharding: "none": each process holds all weights; "full": FSDP2 (``sharding.py``).
        save_every: Optimizer steps between resumable snapshots; None for no snapshots.
        seed: Seed of the order of trees and of a new adapter.
    """

    lr: float = 3e-5
    batch_size: int = 4
    epochs: int = 1
    warmup_steps: int = 4
    lr_end: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 2048
    max_tree_tokens: int = 8192
    lora_rank: int = 0
    checkpointing: bool = False
    sharding: Literal["none", "full"] = "none"
    save_every: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "micro_batch_tokens", "max_tree_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1")
        if self.lr <= 0:
            raise ValueError("training.lr must be positive")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError("training.save_every must be null or at least 1 optimizer step")
        if self.sharding not in ("none", "full"):
            raise ValueError(f"training.sharding={self.sharding} must be none or full")
        if not 0 <= self.lr_end <= 1:
            raise ValueError("training.lr_end is a fraction of training.lr, from 0 to 1")
