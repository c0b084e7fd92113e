"""The section ``training``. Its defaults are those of the library (``TrainingConfig``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from algorithms.engine.training_config import TrainingConfig
from experiments.config.keys import NOTHING, RESULT, key


@dataclass(kw_only=True)
class Training:
    """How the student is updated."""

    lr: float = key(
        TrainingConfig.lr,
        "Learning rate of the rounds; the warm start has its own",
        above=0,
        affects=RESULT,
    )
    lr_end: float = key(
        TrainingConfig.lr_end,
        "Share of lr that a straight line reaches at the last step; 1: constant",
        least=0,
        most=1,
    )
    batch_size: int = key(
        TrainingConfig.batch_size,
        "Token trees per optimizer step: an episode each, or a group of tries",
        least=1,
    )
    epochs: int = key(TrainingConfig.epochs, "Passes over a round's trees", least=1, affects=RESULT)
    warmup_steps: int = key(
        TrainingConfig.warmup_steps, "Optimizer steps in which the rate rises from 0", least=0
    )
    weight_decay: float = key(
        TrainingConfig.weight_decay, "Decoupled weight decay of AdamW", least=0, absent=0.0
    )
    max_grad_norm: float = key(
        TrainingConfig.max_grad_norm,
        "Norm to which a step's gradient is clipped",
        above=0,
        absent=1.0,
    )
    micro_batch_tokens: int = key(
        TrainingConfig.micro_batch_tokens, "Tokens in memory at once", least=1
    )
    max_tree_tokens: int = key(
        TrainingConfig.max_tree_tokens,
        "A longer episode, with all its labels, is dropped and counted",
        least=1,
    )
    checkpointing: bool = key(
        TrainingConfig.checkpointing,
        "Compute each layer again in the backward pass: less memory, a third more time",
    )
    lora_rank: int = key(
        TrainingConfig.lora_rank, "Rank of low-rank adapters; 0: all weights are trained", least=0
    )
    launch: list[str] | None = key(
        None,
        "Command of training processes, [torchrun, --nproc-per-node, '8']; null: train in the run",
        affects=NOTHING,
    )
    sharding: Literal["none", "full"] = key(
        TrainingConfig.sharding,
        "full: weights and optimizer state are sharded over all processes (FSDP2)",
        affects=NOTHING,
    )
    save_every: int | None = key(
        TrainingConfig.save_every,
        "Optimizer steps between states from which a killed training resumes; null: none",
        least=1,
        affects=NOTHING,
    )
