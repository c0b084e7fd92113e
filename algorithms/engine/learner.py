"""From token trees to the next checkpoint. Knows weights on tokens, and no algorithm.

All trees of a micro-batch lie in one packed row: no padding, what they begin with alike is computed
once, and attention costs what each tree costs alone. The optimizer starts fresh in every round (its
state is not saved): rounds then depend on nothing but the checkpoint before them, and a short
warm-up replaces the moments.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.engine import parallel, resume, sharding
from algorithms.engine.adapters import with_adapter
from algorithms.engine.checkpoint import device, save_checkpoint
from algorithms.engine.forward import forward, use_trees
from algorithms.engine.losses import Sums, denominator, total
from algorithms.engine.objective import Objective
from algorithms.engine.optimizer import MasterAdamW
from algorithms.engine.supported import check_student
from algorithms.engine.training_config import TrainingConfig as TrainingConfig
from algorithms.engine.tree import TokenTree

Progress = Callable[[int, int, str], None]

_two = np.zeros(2, dtype=np.int64)
FILLER = [TokenTree(_two, _two - [1, 0], _two.astype(np.float32), _two)]  # a row that counts 0


@dataclass
class TrainReport:
    """What a training run did; every list has one entry per optimizer step."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # of label tokens, before the update
    clipped: list[float] = field(default_factory=list)  # share of policy-gradient tokens
    divergence: list[float] = field(default_factory=list)  # mean over the tokens that carry it
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    trees: int = 0
    dropped: int = 0  # trees longer than max_tree_tokens, or without a weighted token
    tokens: int = 0  # nodes of the trees, over all epochs; shared ones count in each tree
    label_tokens: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        """The newest step in words."""
        right = self.accuracy[-1]
        told = f"loss {self.loss[-1]:.3f}"
        told += "" if math.isnan(right) else f", label tokens right {right:.0%}"
        return f"{told}, {self.tokens_per_second:.0f} tokens/s"

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def micro_batches(samples: Sequence[TokenTree], budget: int) -> Iterator[list[TokenTree]]:
    """Split one optimizer batch into rows of at most ``budget`` tokens (or one longer tree)."""
    row: list[TokenTree] = []
    size = 0
    for sample in sorted(samples, key=len):
        if row and size + len(sample) > budget:
            yield row
            row, size = [], 0
        row.append(sample)
        size += len(sample)
    if row:
        yield row


def _groups(samples: Sequence[TokenTree]) -> list[list[TokenTree]]:
    """What was too long for one tree stays in one optimizer step all the same."""
    found: dict[str | int, list[TokenTree]] = {}
    for sample in samples:
        found.setdefault(sample.group or id(sample), []).append(sample)
    return list(found.values())


def _batches(groups: list[list[TokenTree]], config: TrainingConfig) -> Iterator[list[TokenTree]]:
    """What each optimizer step is of, over all epochs."""
    for epoch in range(config.epochs):
        order = list(groups)
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        for low in range(0, len(order), config.batch_size):
            yield [s for group in order[low : low + config.batch_size] for s in group]


class Learner:
    """Trains a model on trees and saves it as a plain folder. Under ``torchrun`` every process
    makes one of these, from the same model, and trains on the same samples; see ``parallel.py``."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: TrainingConfig,
        objective: Objective = Objective(),  # noqa: B008  (frozen)
    ) -> None:
        sharded = config.sharding == "full"
        place = device() if sharded else model.device
        parallel.join(cpu=place.type == "cpu")
        self.config, self.tokenizer, self.objective = config, tokenizer, objective
        self._attention_before = model.config._attn_implementation
        use_trees(model)
        if config.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model = with_adapter(model, config.lora_rank, config.seed)
        self._empty = sharding.shard(model, place) if sharded and parallel.many() else None
        self.model = model if self._empty is not None else model.to(place)
        self._old: dict[int, torch.Tensor] = {}

    def train(
        self,
        samples: Sequence[TokenTree],
        progress: Progress | None = None,
        kept: Path | None = None,
    ) -> TrainReport:
        """``epochs`` passes in seeded order, each optimizer batch with its own denominator. Every
        ``save_every`` steps all is kept in the folder ``kept``; what lies there is gone on from."""
        config, report = self.config, TrainReport()
        check_student(self.model.config.get_text_config().to_dict(), type(self.model).__name__)
        usable = [s for s in samples if len(s) <= config.max_tree_tokens and len(s.scored)]
        report.trees, report.dropped = len(usable), len(samples) - len(usable)
        if not usable:
            raise ValueError(
                f"Nothing to train on: of {len(samples)} trees none has a weighted token and at "
                f"most {config.max_tree_tokens} tokens. Were any episodes kept and labeled?"
            )
        if self.objective.truncation is not None:
            self._remember_old(usable)
        batches = list(_batches(_groups(usable), config))
        optimizer = MasterAdamW(
            self.model.parameters(),
            config.lr,
            config.warmup_steps,
            config.weight_decay,
            config.max_grad_norm,
            len(batches),
            config.lr_end,
        )
        digest = ""
        if kept and (config.save_every or kept.is_dir()):
            how = replace(config, sharding="none", save_every=None, checkpointing=False)
            digest = resume.digest(batches, f"{how} {self.objective}")
            if told := resume.load(kept, optimizer, digest):
                report = TrainReport(**told["report"])
        todo, started = sum(len(s) for b in batches for s in b), time.monotonic() - report.seconds
        self.model.train()
        for step, batch in enumerate(batches[len(report.loss) :], len(report.loss) + 1):
            self._accumulate(batch, optimizer, report)
            report.grad_norm.append(optimizer.step())
            report.lr.append(optimizer.rate())
            report.tokens += sum(len(s) for s in batch)
            report.label_tokens += sum(len(s.scored) for s in batch)
            report.seconds = time.monotonic() - started
            if kept and config.save_every and step % config.save_every == 0 and step < len(batches):
                told = {"digest": digest, "steps": step, "report": asdict(report)}
                resume.save(kept, optimizer, told)
            if progress and parallel.is_first():
                progress(report.tokens, todo, report.line())
        self.model.eval()
        return report

    def _accumulate(
        self, batch: list[TokenTree], optimizer: MasterAdamW, report: TrainReport
    ) -> None:
        """Gradients of one optimizer batch; the denominator is known before its first row."""
        whole = denominator(batch, self.objective)
        sums = torch.zeros(4, dtype=torch.float64)
        rows = list(micro_batches(batch, self.config.micro_batch_tokens))
        for row in parallel.share(rows, FILLER):
            found = self.loss(row)
            (found.loss / whole).backward()
            optimizer.accumulate()
            told = (float(found.loss.detach()), found.right, found.clipped, found.divergence)
            sums += torch.tensor(told, dtype=torch.float64)
        sums = sums.to(self.model.device)
        parallel.add_up([sums])
        loss, right, clipped, divergence = sums.tolist()
        weights = {
            name: sum(float(getattr(s, name)[s.scored].sum()) for s in batch) or math.nan
            for name in ("ce_weight", "pg_weight", "kl_weight")
        }
        report.loss.append(loss / whole)
        report.accuracy.append(right / weights["ce_weight"])
        report.clipped.append(clipped / weights["pg_weight"])
        own = "pg_weight" if self.objective.advantage == "log_ratio" else "kl_weight"
        report.divergence.append(divergence / weights[own])

    def loss(self, row: Sequence[TokenTree]) -> Sums:
        """Weighted sums over one packed row, not yet divided by anything."""
        predicted, packed = forward(self.model, row, temperature=self.objective.temperature)
        if self._old:
            old = torch.cat([self._old[id(s)] for s in row if len(s.scored)] or [torch.zeros(0)])
            packed.streams["old"] = old.to(packed.target.device)
        return total(self.objective, predicted, packed)

    @torch.no_grad()
    def _remember_old(self, samples: Sequence[TokenTree]) -> None:
        """The trainer's own log-probs before the first update, for the truncated correction."""
        place = {id(s): n for n, s in enumerate(samples)}
        mine: dict[int, torch.Tensor] = {}
        rows = list(micro_batches(samples, self.config.micro_batch_tokens))
        for row in parallel.share(rows, FILLER):
            predicted, _ = forward(self.model, row, temperature=self.objective.temperature)
            parts = predicted.logprobs.split([len(s.scored) for s in row])
            mine |= {
                place[id(s)]: part.cpu() for s, part in zip(row, parts, strict=True) if len(part)
            }
        self._old = {id(samples[n]): part for n, part in parallel.gather(mine).items()}

    def save(self, folder: str | Path) -> Path:
        """Of adapters nothing else. Where there are several processes the first one writes and the
        others wait for it."""
        model = self.model
        if self._empty is not None:
            model = sharding.whole(model, self._empty)
        if parallel.is_first():
            model.set_attn_implementation(self._attention_before)
            save_checkpoint(model, self.tokenizer, folder)
        parallel.wait()
        return Path(folder)
