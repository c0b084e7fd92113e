"""From token trees to the next checkpoint. Knows weights on tokens, and no algorithm.

On the CPU every tree of a micro-batch lies in one packed row: no padding, and attention costs what
each tree costs alone. The optimiser starts fresh in every round (its state is not saved): rounds
then depend on nothing but the checkpoint before them, and a short warm-up replaces the moments.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from algorithms.engine import attention as _registers_packed_tree  # noqa: F401
from algorithms.engine.checkpoint import save_checkpoint
from algorithms.engine.losses import cross_entropy, denominator
from algorithms.engine.optimizer import MasterAdamW
from algorithms.engine.tree import TrainSample, pack

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Lengths are in tokens, ``batch_size`` in trees per optimiser step. After a
    linear warm-up the learning rate goes in a straight line to ``lr_end`` times ``lr``."""

    lr: float = 1e-4
    batch_size: int = 8
    epochs: int = 1
    warmup_steps: int = 4
    lr_end: float = 1.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 2048
    max_tree_tokens: int = 8192
    lora_rank: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "micro_batch_tokens", "max_tree_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1")
        if self.lr <= 0:
            raise ValueError("training.lr must be positive")
        if not 0 <= self.lr_end <= 1:
            raise ValueError("training.lr_end is a share of training.lr, from 0 to 1")


@dataclass
class TrainReport:
    """What a training run did; every list has one entry per optimiser step."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # of label tokens, before the update
    grad_norm: list[float] = field(default_factory=list)
    trees: int = 0
    dropped: int = 0  # trees longer than max_tree_tokens, or without a weighted token
    tokens: int = 0  # nodes computed, over all epochs
    label_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def micro_batches(samples: Sequence[TrainSample], budget: int) -> Iterator[list[TrainSample]]:
    """Split one optimiser batch into rows of at most ``budget`` tokens (or one longer tree)."""
    row: list[TrainSample] = []
    size = 0
    for sample in sorted(samples, key=len):
        if row and size + len(sample) > budget:
            yield row
            row, size = [], 0
        row.append(sample)
        size += len(sample)
    if row:
        yield row


class Learner:
    """Trains a model on trees and saves it as a plain folder. One process; see ``accelerator``."""

    def __init__(self, model: Any, tokenizer: Any, config: TrainingConfig) -> None:
        from accelerate import Accelerator

        self.config, self.tokenizer = config, tokenizer
        cpu = model.device.type == "cpu"
        self.accelerator = Accelerator(cpu=cpu)
        self._attention_before = model.config._attn_implementation
        if config.lora_rank:
            model = _with_lora(model, config.lora_rank)
        if cpu:
            model.set_attn_implementation("packed_tree")
        self.model = self.accelerator.prepare(model)

    def train(
        self, samples: Sequence[TrainSample], progress: Progress | None = None
    ) -> TrainReport:
        """``epochs`` passes in seeded order. The loss is the mean over the batch's label weight."""
        config, report, started = self.config, TrainReport(), time.monotonic()
        usable = [s for s in samples if len(s) <= config.max_tree_tokens and denominator([s]) > 0]
        report.trees, report.dropped = len(usable), len(samples) - len(usable)
        if not usable:
            raise ValueError(
                f"Nothing to train on: of {len(samples)} trees none has a weighted token and at "
                f"most {config.max_tree_tokens} tokens. Were any episodes kept and labelled?"
            )
        optimizer = MasterAdamW(
            self.model.parameters(),
            config.lr,
            config.warmup_steps,
            config.weight_decay,
            config.max_grad_norm,
            config.epochs * math.ceil(len(usable) / config.batch_size),
            config.lr_end,
        )
        total, done = config.epochs * sum(len(s) for s in usable), 0
        self.model.train()
        for epoch in range(config.epochs):
            order = list(usable)
            random.Random(f"{config.seed}/{epoch}").shuffle(order)
            for low in range(0, len(order), config.batch_size):
                batch = order[low : low + config.batch_size]
                loss, accuracy = self._accumulate(batch, optimizer)
                report.loss.append(loss)
                report.accuracy.append(accuracy)
                report.grad_norm.append(optimizer.step())
                done += sum(len(s) for s in batch)
                report.tokens = done
                report.label_tokens += sum(int((s.ce_weight != 0).sum()) for s in batch)
                report.seconds = time.monotonic() - started
                if progress:
                    message = f"loss {loss:.3f}, label tokens right {accuracy:.0%}"
                    progress(done, total, f"{message}, {report.tokens_per_second:.0f} tokens/s")
        self.model.eval()
        return report

    def _accumulate(self, batch: list[TrainSample], optimizer: MasterAdamW) -> tuple[float, float]:
        """Gradients of one optimiser batch; the denominator is known before its first row."""
        whole, loss_sum, right_sum = denominator(batch), 0.0, 0.0
        for row in micro_batches(batch, self.config.micro_batch_tokens):
            loss, right = self.loss(row)
            self.accelerator.backward(loss / whole)
            optimizer.accumulate()
            loss_sum += float(loss.detach())
            right_sum += right
        return loss_sum / whole, right_sum / whole

    def loss(self, row: Sequence[TrainSample]) -> tuple[torch.Tensor, float]:
        """Weighted sums over one packed row: cross-entropy, and weight of tokens already right."""
        packed = pack(row, self.model.dtype)
        device = self.model.device
        model = self.accelerator.unwrap_model(self.model)
        body = getattr(model, "get_base_model", lambda: model)()
        hidden = body.base_model(
            input_ids=packed.input_ids.to(device),
            position_ids=packed.position_ids.to(device),
            attention_mask=packed.attention_mask.to(device),
            use_cache=False,
            tree_spans=packed.spans,
        ).last_hidden_state[0]
        return cross_entropy(body.get_output_embeddings(), hidden, packed)

    def save(self, folder: str | Path) -> Path:
        """Adapters are merged; the model here goes on as it is merged."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "merge_and_unload"):
            model = self.model = model.merge_and_unload()
        model.set_attn_implementation(self._attention_before)
        return save_checkpoint(model, self.tokenizer, folder)


def _with_lora(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)
