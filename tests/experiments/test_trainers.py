"""Other trainers than ours: a whole run with TRL's, and what a trainer is refused for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algorithms.sft import SFT
from algorithms.trainer import Trainer, TrainingJob
from experiments.config.algorithms import build_trainer
from experiments.console.progress import Display
from experiments.pipeline.build import RunContext
from experiments.pipeline.round import train
from experiments.runs.folders import run_folder
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, tiny_model
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration

TRL = "trainer._target_=examples.trl_sft.SFT"


@pytest.mark.timeout(900)
def test_run_with_trl_as_its_trainer(job: Job) -> None:
    """Iteration 0 and a round of DAgger, trained by TRL's SFTTrainer, evaluated as ever."""
    pytest.importorskip("trl")
    quick = ("training.warmup_steps=0", "training.batch_size=1", "iteration0.epochs=1")
    job.run(TRL, *quick, "evaluation.tasks=1", "model.dtype=bfloat16")  # as auto may choose
    folder = job.folder()
    for index in (0, 1):
        path = folder / f"rounds/round_00{index}"
        losses = json.loads((path / "metrics.json").read_text())["losses"]
        assert losses and all(loss > 0 for loss in losses)
    start, first, second = (
        load_file(path / "model.safetensors")
        for path in (
            job.runs.parent / "model",
            folder / "rounds/round_000/checkpoint",
            folder / "rounds/round_001/checkpoint",
        )
    )
    for before, after in ((start, first), (first, second)):
        assert before.keys() == after.keys()
        assert all(torch.isfinite(weights).all() for weights in after.values())
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert not (folder / "rounds/round_001/training").exists()
    assert (folder / "report.html").exists()
    # a stored round is trained again by hand
    (folder / "rounds/round_001/checkpoint/config.json").unlink()
    (folder / "rounds/round_001/train.done").unlink(missing_ok=True)
    job.by_hand("experiments.train", str(folder), "1")
    assert (folder / "rounds/round_001/checkpoint/config.json").exists()


def test_methods_that_trl_cannot_train_are_refused_before_the_first_episode(
    smollm2: Path,
) -> None:
    pytest.importorskip("trl")
    given = (f"model.path={smollm2}", TRL)
    for method in ("grpo", "gkd"):
        with pytest.raises(SetupError, match=f"algorithm={method}: .* cross-entropy alone"):
            RunContext(configuration(f"algorithm={method}", *given)).check()
    with pytest.raises(SetupError, match="no adapters"):
        RunContext(configuration("training=lora", *given)).check()
    RunContext(configuration(*given)).check()


def test_trainer_is_part_of_the_run_name_unless_it_is_ours() -> None:
    ours = configuration()
    older = configuration("~trainer")
    assert run_folder(ours).path == run_folder(older).path
    assert run_folder(configuration(TRL)).path != run_folder(ours).path
    assert type(build_trainer(None)) is type(build_trainer(ours.trainer))


@dataclass(frozen=True)
class Forgetful(Trainer):
    """Leaves nothing."""

    def train(self, job: TrainingJob) -> Mapping[str, Any]:
        job.progress(1, 1, "")
        return {}


@pytest.mark.slow
def test_trainer_that_leaves_no_checkpoint_is_named(tmp_path: Path, tokenizer) -> None:  # type: ignore[no-untyped-def]
    model = tmp_path / "model"
    tiny_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    folder = RoundFolder(tmp_path / "round_000")
    folder.append(make_episode([Turn("see", "teacher", "do")]), [])
    given = (f"model.path={model}", "model.dtype=float32")
    context = RunContext(configuration(*given, f"trainer._target_={__name__}.Forgetful"))
    with pytest.raises(SetupError, match="Forgetful left no Hugging Face folder"):
        train(
            SFT(),
            [folder],
            None,
            student=context.student,
            trainer=context.trainer,
            settings=replace(context.training, epochs=1, lr=1e-3),
            display=Display(),
        )
    assert not folder.is_done("train")


@pytest.mark.parametrize(
    "wrong,message",
    [
        ("trainer._target_=algorithms.sft.SFT", "derived from algorithms.trainer.Trainer"),
        ("+trainer.lr=1", "EngineTrainer has no option lr; its options are none"),
    ],
)
def test_trainer_that_cannot_be_built_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        _ = RunContext(configuration(wrong)).trainer
