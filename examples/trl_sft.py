"""TRL's SFTTrainer in place of ours, for methods with cross-entropy alone (sft, rft, dagger, ...).
python -m experiments.run trainer._target_=examples.trl_sft.SFT
"""

from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from algorithms.base import Algorithm
from algorithms.engine.checkpoint import load_model
from algorithms.engine.examples import example_trees
from algorithms.engine.export import check_exportable, token_sequences
from algorithms.engine.learner import TrainingConfig
from algorithms.objective import Objective
from algorithms.trainer import Trainer, TrainingJob


class SFT(Trainer):
    """Each round's plain sequences, one after another, through SFTTrainer."""

    def check(self, algorithm: Algorithm, settings: TrainingConfig) -> None:
        if algorithm.scoring or algorithm.objective != Objective():
            raise ValueError("TRL's SFTTrainer learns by cross-entropy alone: take another method")
        if settings.lora_rank:
            raise ValueError("this trainer has no adapters: training=full")

    def train(self, job: TrainingJob) -> dict[str, Any]:
        check_exportable(job.examples)
        how, rows = job.settings, list(token_sequences(example_trees(job.examples, job.renderer)))
        if any(weight not in (0, 1) for row in rows for weight in row.weights):
            raise ValueError("SFTTrainer knows no weights: choose one algorithm.annotator")
        config = SFTConfig(
            str(job.scratch), max_length=None, learning_rate=how.lr, num_train_epochs=how.epochs,
            per_device_train_batch_size=1, gradient_accumulation_steps=how.batch_size,
            warmup_steps=how.warmup_steps, seed=how.seed, bf16=job.dtype == torch.bfloat16,
            use_cpu=not torch.cuda.is_available(), activation_checkpointing=how.checkpointing,
            save_strategy="no", logging_steps=1, disable_tqdm=True, report_to=[],
        )  # fmt: skip
        run = SFTTrainer(
            load_model(job.checkpoint, torch.float32), config,
            train_dataset=Dataset.from_list([{"labels": r.labels} | vars(r) for r in rows]),
            processing_class=job.renderer.tokenizer, callbacks=[Steps(job)],
        )  # fmt: skip
        run.train()
        run.save_model(str(job.output))
        return {"losses": [step["loss"] for step in run.state.log_history if "loss" in step]}


class Steps(TrainerCallback):
    """Shows how far it is."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.job.progress(state.global_step, state.max_steps, "optimizer steps")
