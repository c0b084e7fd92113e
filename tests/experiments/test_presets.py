"""``experiment=paper/...``: every published value is in place, it fits the published node, and the
same files train, at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import Qwen3Config, Qwen3ForCausalLM

from algorithms.schedules import Schedule
from experiments.plan import memory
from experiments.plan.phases import Planner
from tests.algorithms.families import family
from tests.experiments.conftest import ROOT, Job
from tests.experiments.test_configuration import CONF, configuration, planned

# arXiv 2605.12913, as its authors and readers report it
ALL = {
    "teacher.model": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
    "tasks.name": "swe_gym",
    "tasks.train": 2338,
    "evaluation.split": "heldout",
    "evaluation.tasks": 100,
    "actions.tools": ["bash", "str_replace_editor", "finish"],
    "limits.max_turns": 100,
    "limits.max_tokens": 65536,
    "limits.command_timeout": 120,
    "sampling.temperature": 0.7,
    "sampling.top_p": 0.9,
    "teacher.temperature": 0.7,
    "teacher.top_p": 0.9,
    "rounds": 5,
    "episodes_per_round": 512,
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.lr": 3e-6,
    "training.lr_end": 1,
    "iteration0.algorithm._target_": "algorithms.sft.SFT",
    "iteration0.lr": 3e-6,
    "iteration0.epochs": 3,
}
ROWS: dict[str, dict[str, Any]] = {
    "dagger": {"algorithm.keep": "finished", "beta.start": 1.0, "beta.slope": 0.2},
    "aggrevate": {"algorithm.start": 0, "algorithm.step": 20, "algorithm.cap": 100},
    "sft": {"algorithm.keep": "finished"},
    # its gradient is of the distribution that it samples from, at a served teacher's temperature
    "opd": {"algorithm.temperature": 1.0, "algorithm.top_p": 1.0},
    "grpo": {"training.lr": 1e-6, "algorithm.kl": 1e-3, "algorithm.temperature": 0.7},
}
STUDENTS = {"4b": "Qwen/Qwen3-4B-Instruct-2507", "8b": "Qwen/Qwen3-8B"}
TEMPLATES = {"4b": "qwen3_instruct_2507", "8b": "qwen3"}
PRESETS = [f"{row}_{size}" for row in ROWS for size in STUDENTS]

# The same files, small enough for a minute
TOY = (
    *("model.dtype=float32", "model.requires.gpus=0", "sandbox=local", "serving=hf"),
    *("training.launch=null", "training.sharding=none", "training.micro_batch_tokens=4096"),
    *("rounds=2", "episodes_per_round=2", "iteration0.episodes=2", "evaluation.tasks=1"),
    *("sampling.max_new_tokens=8", "limits.max_turns=8", "limits.max_tokens=4096"),
    *("workers.concurrency=2", "workers.threads=1"),
)


@pytest.mark.parametrize("name", PRESETS)
def test_every_published_value_is_in_place(name: str) -> None:
    row, size = name.split("_")
    cfg = configuration(f"experiment=paper/{name}")
    published = ALL | ROWS[row] | {"model.path": STUDENTS[size], "algorithm.name": row}
    assert {key: OmegaConf.select(cfg, key) for key in published} == published


def test_the_presets_are_those_of_the_table() -> None:
    files = {path.stem for path in (CONF / "experiment" / "paper").glob("*.yaml")}
    assert files == {*PRESETS, "node"}


def test_the_published_schedule_of_beta() -> None:
    given = OmegaConf.to_container(configuration("experiment=paper/dagger_8b").beta, resolve=True)
    assert isinstance(given, dict) and given.pop("_target_") == "algorithms.schedules.Schedule"
    beta = Schedule(**given)  # type: ignore[arg-type]
    assert [round(beta(index), 6) for index in range(5)] == [1.0, 0.8, 0.6, 0.6, 0.6]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", PRESETS)
def test_it_fits_the_published_node(name: str) -> None:
    cfg = planned(f"experiment=paper/{name}")
    place = memory.placement(cfg, cfg.cluster.gpus)
    assert (place.student, place.teachers, place.teacher_tp) == (4, 1, 4)
    memory.check(cfg, cfg.cluster.gpus)
    short = ["rounds=1", "episodes_per_round=4", "iteration0.episodes=4", "evaluation.tasks=2"]
    small = planned(f"experiment=paper/{name}", *short, "limits.max_turns=4")
    phases = Planner(small, small.cluster.gpus).run(quick=True)
    assert phases[-1].name == "evaluate round_001" and phases[-1].seconds > 0


def tiny_qwen3(folder: Path, size: str) -> Path:
    """Random weights, and the chat template of the student that it stands for."""
    tokenizer = family(TEMPLATES[size])
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(job: Job, tmp_path: Path, size: str, rows: list[str], *teacher: str) -> None:
    model = tiny_qwen3(tmp_path / f"qwen3_{size}", size)
    (tasks,) = [o for o in job.overrides if o.startswith("tasks.options.path=")]
    files = ",".join(f"paper/{row}_{size}" for row in rows)
    small = Job(job.home, job.runs, (f"paths.runs={job.runs}", "tasks=jsonl", tasks, *TOY))
    teacher = tuple(one.format(model=model) for one in teacher)
    small.run(f"experiment={files}", f"model.path={model}", *teacher, "-m")
    for row in rows:
        folder = job.folder(f"{row}-*")
        claim = json.loads((folder / "summary.json").read_text())
        assert claim["evaluations"][-1]["name"] == "round_002"
        config = OmegaConf.load(folder / "config.yaml")
        kept = {**ALL, **ROWS[row]}
        changed = {key for key, value in kept.items() if OmegaConf.select(config, key) != value}
        assert changed <= {
            *("teacher.model", "teacher.temperature", "teacher.top_p", "tasks.name", "tasks.train"),
            *("evaluation.tasks", "limits.max_turns", "limits.max_tokens"),
            *("rounds", "episodes_per_round"),
        }, "nothing else of the file was touched"
        for index in (1, 2):
            assert (folder / f"rounds/round_{index:03d}/checkpoint/config.json").exists()


@pytest.mark.parametrize("size", STUDENTS)
def test_dagger_trains_at_toy_size(job: Job, tmp_path: Path, size: str) -> None:
    trained(job, tmp_path, size, ["dagger"], "teacher=expert")
    first, second = (
        json.loads((job.folder("dagger-*") / f"rounds/round_00{n}/metrics.json").read_text())
        for n in (1, 2)
    )
    assert (first["planned_teacher_share"], second["planned_teacher_share"]) == (1.0, 0.8)
    assert first["resolved"] == 2 and first["losses"], "the expert's turns in Qwen's own format"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", STUDENTS)
def test_the_other_rows_train_at_toy_size(job: Job, tmp_path: Path, size: str) -> None:
    trained(job, tmp_path, size, ["aggrevate", "sft", "grpo"], "teacher=expert")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", STUDENTS)
def test_opd_trains_at_toy_size(job: Job, tmp_path: Path, size: str) -> None:
    """Its teacher gives log-probs: here it is the student's own like."""
    trained(job, tmp_path, size, ["opd"], "teacher=hf", "teacher.path={model}")


def test_the_page_names_them_all() -> None:
    page = (ROOT / "docs" / "reference" / "methods.md").read_text()
    assert all(f"`{name}`" in page for name in PRESETS)
