"""The settings of a training. Imports no torch, so that a configuration can be checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The configuration's section ``training`` has the same keys and defaults.

    Attributes:
        lr: Learning rate after the warm-up.
        batch_size: Token trees per optimizer step; the trees of one group count as one.
        epochs: Passes over the round's trees.
        warmup_steps: Optimizer steps in which the rate rises linearly from 0.
        lr_end: Share of ``lr`` that a straight line reaches at the last step; 1 is constant.
        weight_decay: Decoupled weight decay of AdamW.
        max_grad_norm: Norm to which a step's gradient is clipped.
        micro_batch_tokens: Tokens in memory at once.
        max_tree_tokens: A longer tree is dropped and counted.
        lora_rank: Rank of the adapters; 0 trains all weights.
        checkpointing: Each layer is computed again in the backward: memory for a third more time.
        sharding: ``full`` shards weights and optimizer state over all processes (FSDP2).
        save_every: Optimizer steps between two states from which a killed training resumes.
        seed: Order of the trees.
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
            raise ValueError("training.save_every is null or at least 1 optimizer step")
        if self.sharding not in ("none", "full"):
            raise ValueError(f"training.sharding={self.sharding}: it is none or full")
        if not 0 <= self.lr_end <= 1:
            raise ValueError("training.lr_end is a share of training.lr, from 0 to 1")
