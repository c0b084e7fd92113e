"""Every choice composes, a model brings its own parts, and the command line still wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.runs.folders import iteration0_folder, run_folder
from swe_gym_env import tasks

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml"))


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_the_default_is_the_main_job() -> None:
    cfg = configuration()
    chosen = (cfg.algorithm.name, cfg.model.name, cfg.teacher.name, cfg.tasks.name)
    assert chosen == ("dagger", "smollm2", "expert", "pypi")
    assert cfg.evaluation.tasks >= 50


def test_the_demo_and_the_fast_one_are_the_main_job_made_smaller() -> None:
    cfg = configuration()
    smaller = {
        "teacher": {"tests": False},
        "iteration0": {"epochs": 1},
        "training": {"batch_size": 2},
        "episodes_per_round": 16,
        "evaluation": {"untrained": 8},
    }
    demo = configuration("experiment=demo")
    assert demo == OmegaConf.merge(cfg, smaller)
    fewer = {
        "rounds": 1,
        "episodes_per_round": 4,
        "iteration0": {"episodes": 20},
        "training": {"warmup_steps": 2},
        "evaluation": {"tasks": 4, "untrained": 2},
        "limits": {"max_turns": 5},
    }
    assert configuration("experiment=fast") == OmegaConf.merge(demo, fewer)
    text = (CONF.parent / "Makefile").read_text()
    assert "experiments.run experiment=$(if $(FAST),fast,demo)" in text


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option: str) -> None:
    cfg = configuration(option)
    assert cfg.algorithm.name and cfg.model.path


def test_a_model_brings_its_own_parts() -> None:
    cfg = configuration("algorithm=dagger", "model=qwen8b")
    chosen = (cfg.teacher.name, cfg.teacher.model, cfg.tasks.name, cfg.sandbox.name)
    assert chosen == ("server", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "swe_gym", "docker")
    assert cfg.actions.name == "hermes_json" and "str_replace_editor" in cfg.actions.tools
    assert (cfg.rounds, cfg.beta.rounds, cfg.episodes_per_round) == (5, 5, 512)
    assert (cfg.training.lr, cfg.training.batch_size, cfg.training.epochs) == (3e-6, 16, 3)
    assert (cfg.limits.max_turns, cfg.limits.max_tokens) == (100, 65536)


def test_the_command_line_wins_over_what_the_model_brings() -> None:
    given = ("teacher=expert", "tasks=pypi", "sandbox=local", "actions=bash_block")
    given += ("training.lr=1e-5", "rounds=2")
    for order in ((*given, "model=qwen8b"), ("model=qwen8b", *given)):
        cfg = configuration(*order)
        chosen = (cfg.teacher.name, cfg.tasks.name, cfg.sandbox.name, cfg.actions.name)
        assert chosen == ("expert", "pypi", "local", "bash_block")
        assert (cfg.training.lr, cfg.rounds) == (1e-5, 2)


def test_the_folder_depends_on_what_changes_the_result_and_on_nothing_else() -> None:
    one = run_folder(configuration()).path.name
    same = ("logging=debug", "paths.runs=/elsewhere", "workers.concurrency=3", "cluster=ray")
    assert run_folder(configuration(*same)).path.name == one
    launched = ("training.launch=[torchrun]", "training.sharding=full", "training.save_every=3")
    assert run_folder(configuration(*launched)).path.name == one
    assert run_folder(configuration("history=null")).path.name == one
    assert run_folder(configuration("history=3")).path.name != one
    assert one.startswith("dagger-")
    others = [
        "seed=1",
        "beta=cosine",
        "training.lr=3e-4",
        "algorithm=sft",
        "limits.max_turns=9",
        "overlap=1",
    ]
    names = {run_folder(configuration(other)).path.name for other in others}
    assert len(names) == len(others) and one not in names
    baseline = run_folder(configuration("algorithm=sft")).path
    assert run_folder(configuration("algorithm=sft", "beta=cosine")).path == baseline


def test_iteration0_is_shared_by_all_algorithms() -> None:
    def shared(*overrides: str, ids: tuple[str, ...] = ("a", "b")) -> str:
        return iteration0_folder(configuration(*overrides), list(ids)).path.name

    assert shared() == shared(
        "algorithm=sft", "beta=step", "rounds=7", "evaluation.tasks=3", "overlap=1", "training.lr=1"
    )
    assert len({shared(), shared("seed=1"), shared("training=lora"), shared(ids=("a",))}) == 4


SOURCES = {f.stem for f in (CONF / "tasks").glob("*.yaml")} - {"plugin"}  # of another package


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_source_of_tasks_takes_the_options_that_its_group_gives(name: str) -> None:
    cfg = configuration(f"tasks={name}")
    given = OmegaConf.to_container(cfg.tasks.options, resolve=True)
    assert isinstance(given, dict)
    options = {str(key): value for key, value in given.items() if value != "???"}
    assert tasks.check_options(cfg.tasks.name, options) == options
