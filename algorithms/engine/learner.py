"""From token trees to the next checkpoint. The learner knows weights of tokens, and no algorithm.

All trees of a micro-batch lie in one packed row: there is no padding, beginnings that trees share
are computed once, and attention costs what it would cost for each tree alone.

The optimizer starts fresh in every round, and its state is not part of a checkpoint. A round then
depends on the previous checkpoint and nothing else; a short warm-up gives Adam's moments time to
form.
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
from algorithms.engine.losses import Sums, denominator, weighted_sums
from algorithms.engine.optimizer import MasterAdamW
from algorithms.engine.supported import check_student
from algorithms.engine.terminal_bar import TerminalBar
from algorithms.engine.training_config import TrainingConfig as TrainingConfig
from algorithms.engine.tree import TokenTree
from algorithms.objective import Objective

Progress = Callable[[int, int, str], None]  # tokens done, tokens in all, text of the newest step

_two = np.zeros(2, dtype=np.int64)
FILLER = [TokenTree(_two, _two - [1, 0], _two.astype(np.float32), _two)]  # a row with no weight


@dataclass
class TrainReport:
    """What a training run did. Each list has one entry per optimizer step.

    Attributes:
        loss: The objective, divided by its denominator.
        accuracy: Share of label tokens that were the model's most likely ones before the update.
        clipped: Share of policy-gradient tokens whose gradient the clip removed.
        divergence: Mean divergence from the scorer over the tokens that carry one, in nats.
        grad_norm: Global gradient norm before clipping.
        lr: Learning rate.
        trees: Trees that were trained on.
        dropped: Trees longer than ``max_tree_tokens``, or without a weighted token.
        tokens: Nodes of the trees over all epochs; a beginning that trees share counts in each.
        label_tokens: Those of them with a loss.
        seconds: Wall time, including the time before the run was resumed.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    trees: int = 0
    dropped: int = 0
    tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0

    def latest(self) -> str:
        """One line about the newest step."""
        accuracy = self.accuracy[-1]
        text = f"loss {self.loss[-1]:.3f}"
        text += "" if math.isnan(accuracy) else f", label tokens right {accuracy:.0%}"
        return f"{text}, {self.tokens_per_second:.0f} tokens/s"

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def micro_batches(trees: Sequence[TokenTree], budget: int) -> Iterator[list[TokenTree]]:
    """Split one optimizer batch into rows of at most ``budget`` tokens (or one longer tree)."""
    row: list[TokenTree] = []
    size = 0
    for tree in sorted(trees, key=len):
        if row and size + len(tree) > budget:
            yield row
            row, size = [], 0
        row.append(tree)
        size += len(tree)
    if row:
        yield row


def _grouped(trees: Sequence[TokenTree]) -> list[list[TokenTree]]:
    """Trees of one group together, so that they stay in one optimizer step."""
    groups: dict[str | int, list[TokenTree]] = {}
    for tree in trees:
        groups.setdefault(tree.group or id(tree), []).append(tree)
    return list(groups.values())


def _batches(groups: list[list[TokenTree]], config: TrainingConfig) -> Iterator[list[TokenTree]]:
    """The trees of each optimizer step, over all epochs; the same in every process."""
    for epoch in range(config.epochs):
        order = list(groups)
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        for low in range(0, len(order), config.batch_size):
            yield [tree for group in order[low : low + config.batch_size] for tree in group]


class Learner:
    """Trains a model on token trees and saves it as a Hugging Face folder.

    Under ``torchrun`` every process makes a learner from the same model and trains on the same
    trees; ``parallel.py`` says how the work is split.

    Args:
        model: The model to train, on the device where it computes (any device if sharded).
        tokenizer: Saved beside the weights.
        config: How to train.
        objective: Which losses to minimize.

    Raises:
        SetupError: Token trees would be wrong in this model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: TrainingConfig,
        objective: Objective = Objective(),  # noqa: B008  (frozen)
    ) -> None:
        sharded = config.sharding == "full"
        target = device() if sharded else model.device
        parallel.initialize(cpu=target.type == "cpu")
        self.config, self.tokenizer, self.objective = config, tokenizer, objective
        self._attention_before = model.config._attn_implementation
        use_trees(model)
        if config.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model = with_adapter(model, config.lora_rank, config.seed)
        sharded = sharded and parallel.is_distributed()
        self._empty = sharding.shard(model, target) if sharded else None
        self.model = model if self._empty is not None else model.to(target)
        self._old_logprobs: dict[int, torch.Tensor] = {}  # of the loss nodes, by id() of the tree

    def train(
        self,
        trees: Sequence[TokenTree],
        progress: Progress | None = None,
        snapshot: Path | None = None,
    ) -> TrainReport:
        """Make ``epochs`` passes in seeded order, with one denominator for each optimizer batch.

        Args:
            trees: The trees to train on. Those that are too long or carry no weight are dropped.
            progress: Called in the main process after every optimizer step. None shows a bar, if
                the standard error is a terminal.
            snapshot: Folder of the resumable snapshot, written every ``save_every`` steps. If it
                holds one of this very training run, training continues from it.

        Raises:
            ValueError: No tree can be trained on.
        """
        config, report = self.config, TrainReport()
        check_student(self.model.config.get_text_config().to_dict(), type(self.model).__name__)
        usable = [t for t in trees if len(t) <= config.max_tree_tokens and len(t.loss_nodes)]
        report.trees, report.dropped = len(usable), len(trees) - len(usable)
        if not usable:
            raise ValueError(
                f"Nothing to train on: of {len(trees)} trees none has a weighted token and at "
                f"most {config.max_tree_tokens} tokens. Were any episodes kept and labeled?"
            )
        if self.objective.truncation is not None:
            self._compute_old_logprobs(usable)
        batches = list(_batches(_grouped(usable), config))
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
        if snapshot and (config.save_every or snapshot.is_dir()):
            # What changes no result may differ when training continues.
            settings = replace(config, sharding="none", save_every=None, checkpointing=False)
            digest = resume.digest(batches, f"{settings} {self.objective}")
            if state := resume.load(snapshot, optimizer, digest):
                report = TrainReport(**state["report"])
        total = sum(len(tree) for batch in batches for tree in batch)
        started = time.monotonic() - report.seconds
        show = progress or (TerminalBar(report.tokens, total) if parallel.is_main() else None)
        self.model.train()
        for step, batch in enumerate(batches[len(report.loss) :], len(report.loss) + 1):
            self._accumulate(batch, optimizer, report)
            report.grad_norm.append(optimizer.step())
            report.lr.append(optimizer.learning_rate())
            report.tokens += sum(len(tree) for tree in batch)
            report.label_tokens += sum(len(tree.loss_nodes) for tree in batch)
            report.seconds = time.monotonic() - started
            due = config.save_every and step % config.save_every == 0
            if snapshot and due and step < len(batches):
                state = {"digest": digest, "steps": step, "report": asdict(report)}
                resume.save(snapshot, optimizer, state)
            if show and parallel.is_main():
                show(report.tokens, total, report.latest())
        self.model.eval()
        return report

    def _accumulate(
        self, batch: list[TokenTree], optimizer: MasterAdamW, report: TrainReport
    ) -> None:
        """Compute the gradients of one optimizer batch, and add its figures to ``report``.

        Every process computes its rows; the sums over all processes enter the report.
        """
        divisor = denominator(batch, self.objective)
        totals = torch.zeros(4, dtype=torch.float64)
        rows = list(micro_batches(batch, self.config.micro_batch_tokens))
        for row in parallel.local_rows(rows, FILLER):
            sums = self.loss(row)
            (sums.loss / divisor).backward()
            optimizer.accumulate()
            values = (float(sums.loss.detach()), sums.correct, sums.clipped, sums.divergence)
            totals += torch.tensor(values, dtype=torch.float64)
        totals = totals.to(self.model.device)
        parallel.sum_over_processes([totals])
        loss, correct, clipped, divergence = totals.tolist()
        weights = {
            name: sum(float(getattr(t, name)[t.loss_nodes].sum()) for t in batch) or math.nan
            for name in ("ce_weight", "pg_weight", "kl_weight")
        }
        report.loss.append(loss / divisor)
        report.accuracy.append(correct / weights["ce_weight"])
        report.clipped.append(clipped / weights["pg_weight"])
        stream = "pg_weight" if self.objective.advantage == "log_ratio" else "kl_weight"
        report.divergence.append(divergence / weights[stream])

    def loss(self, row: Sequence[TokenTree]) -> Sums:
        """Weighted sums over one packed row, not divided by anything."""
        predicted, packed = forward(self.model, row, temperature=self.objective.temperature)
        if self._old_logprobs:
            parts = [self._old_logprobs[id(tree)] for tree in row if len(tree.loss_nodes)]
            old = torch.cat(parts or [torch.zeros(0)])
            packed.streams["old"] = old.to(packed.target.device)
        return weighted_sums(self.objective, predicted, packed)

    @torch.no_grad()
    def _compute_old_logprobs(self, trees: Sequence[TokenTree]) -> None:
        """The trainer's own log-probs before the first update, for the truncated correction.

        Processes exchange them by the index of the tree, since id() differs between them.
        """
        index = {id(tree): n for n, tree in enumerate(trees)}
        local: dict[int, torch.Tensor] = {}
        rows = list(micro_batches(trees, self.config.micro_batch_tokens))
        for row in parallel.local_rows(rows, FILLER):
            predicted, _ = forward(self.model, row, temperature=self.objective.temperature)
            parts = predicted.logprobs.split([len(tree.loss_nodes) for tree in row])
            for tree, part in zip(row, parts, strict=True):
                if len(part):
                    local[index[id(tree)]] = part.cpu()
        merged = parallel.merge_dicts(local)
        self._old_logprobs = {id(trees[n]): part for n, part in merged.items()}

    def save(self, folder: str | Path) -> Path:
        """Write the checkpoint; all processes must call. See ``checkpoint.save_checkpoint``."""
        model = self.model
        if self._empty is not None:
            model = sharding.gather_model(model, self._empty)
        if parallel.is_main():
            model.set_attn_implementation(self._attention_before)
            save_checkpoint(model, self.tokenizer, folder)
        parallel.barrier()
        return Path(folder)
