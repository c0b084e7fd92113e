"""Every choice composes, a model brings its own parts, and the command line still wins."""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import experiments.plan.config  # noqa: F401 (its defaults)
from algorithms.engine.training_config import TrainingConfig
from algorithms.schedules import Schedule
from experiments.config import reference, values
from experiments.config.keys import declared
from experiments.config.store import METHODS
from experiments.config.stored import complete
from experiments.config.teachers import TEACHERS
from experiments.runs.folders import (
    evaluation_folder,
    iteration0_folder,
    run_folder,
    trained_folder,
)
from swe_gym_env import tasks
from swe_gym_env.errors import SetupError

# They compose the same configurations, which one worker keeps
pytestmark = pytest.mark.xdist_group("configuration")

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml"))


@functools.cache
def _composed(*overrides: str, name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def configuration(*overrides: str, name: str = "config") -> DictConfig:
    """A copy of what Hydra composes, which takes a fifth of a second for each set of overrides."""
    return copy.deepcopy(_composed(*overrides, name=name))


def planned(*overrides: str) -> DictConfig:
    """The configuration of ``python -m experiments.plan``."""
    return configuration(*overrides, name="planner")


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


@pytest.mark.slow
def test_the_command_line_wins_over_what_the_model_brings() -> None:
    given = ("teacher=expert", "tasks=pypi", "sandbox=local", "actions=bash_block")
    given += ("training.lr=1e-5", "rounds=2")
    for order in ((*given, "model=qwen8b"), ("model=qwen8b", *given)):
        cfg = configuration(*order)
        chosen = (cfg.teacher.name, cfg.tasks.name, cfg.sandbox.name, cfg.actions.name)
        assert chosen == ("expert", "pypi", "local", "bash_block")
        assert (cfg.training.lr, cfg.rounds) == (1e-5, 2)


@pytest.mark.slow
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


def test_library_and_command_line_train_the_same() -> None:
    """Every default of a method or of the training is the composed configuration's; only what
    depends on the run differs."""
    of_the_run = {"beta", "cap", "constant"}
    for method in METHODS:
        composed = OmegaConf.to_container(configuration(f"algorithm={method.name}").algorithm)
        assert isinstance(composed, dict)
        given = {str(key): value for key, value in composed.items() if key != "_target_"}
        options = declared(method)
        assert given.keys() == options.keys()
        for key in given.keys() - of_the_run:
            assert (key, given[key]) == (key, options[key].default), method
    training = configuration().training
    assert {"launch"} == {str(key) for key in training} - {f.name for f in fields(TrainingConfig)}
    library = asdict(TrainingConfig())
    assert {key: library[key] for key in training if key != "launch"} == {
        key: value for key, value in training.items() if key != "launch"
    }


def test_beta_has_the_defaults_of_the_schedule() -> None:
    changed = {"constant": {"start"}, "exponential": {"floor"}}
    for shape in ("constant", "cosine", "exponential", "linear", "step"):
        beta = configuration(f"beta={shape}").beta
        for key in {"start", "floor", "warmup"} - changed.get(shape, set()):
            assert beta[key] == declared(Schedule)[key].default, (shape, key)


# Names that runs had before keys said what they affect (commit 07cc371)
NAMES = {
    (): ("dagger-7bb83d5b9e", "iteration0-a78d657905"),
    ("algorithm=grpo",): ("grpo-4066b6e97f", "iteration0-a78d657905"),
    ("algorithm=aggrevate",): ("aggrevate-ae5104ee68", "iteration0-a78d657905"),
    ("algorithm=oec",): ("oec-32b790925d", "iteration0-a78d657905"),
    ("beta=cosine",): ("dagger-d5143bcd02", "iteration0-a78d657905"),
    ("training=lora",): ("dagger-126d99d4c6", "iteration0-e61994feca"),
    ("teacher=server",): ("dagger-31a5ead53c", "iteration0-a9b36b42b2"),
    ("teacher=trained",): ("dagger-3b0654ed16", "iteration0-7ee602bf18"),
    ("teacher=trained", "teacher.rounds=2"): ("dagger-b014c32e6c", "iteration0-806b48aee8"),
    ("serving=vllm",): ("dagger-23a52ba467", "iteration0-02805d6fa1"),
    ("sandbox=docker",): ("dagger-e333cf1bc6", "iteration0-468500b8f3"),
    ("tasks=swebench",): ("dagger-546d286546", "iteration0-7edbb90440"),
    ("teacher.budget.calls=5",): ("dagger-2d52fd3c1f", "iteration0-d7cd110918"),
    ("teacher.budget.money=5",): ("dagger-0032f7de70", "iteration0-bad8061692"),
    ("overlap=1",): ("dagger-761d779aa0", "iteration0-a78d657905"),
    ("history=3",): ("dagger-4a79f40251", "iteration0-06771e3a2a"),
    ("evaluation.untrained=8",): ("dagger-4d1178348e", "iteration0-a78d657905"),
    ("experiment=paper/dagger_8b",): ("dagger-5a6997d3ce", "iteration0-ced523c989"),
    ("experiment=protocol",): ("dagger-4115125ce1", "iteration0-1a03dbc88e"),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("given", NAMES, ids=" ".join)
def test_runs_keep_their_names(given: tuple[str, ...]) -> None:
    cfg = configuration(*given)
    names = (run_folder(cfg).path.name, iteration0_folder(cfg, ["a", "b"]).path.name)
    assert names == NAMES[given]


def test_evaluations_and_trained_teachers_keep_their_names() -> None:
    trained = trained_folder(configuration("teacher=trained", "teacher.rounds=2"))
    assert trained.path.name == "teacher-ca34eabfca"
    assert evaluation_folder(configuration()).path.name == "evaluation-smollm2-df8667166f"
    server = configuration("evaluation.who=teacher", "teacher=server")
    assert evaluation_folder(server).path.name == "evaluation-server-da1d30cd30"


@pytest.mark.slow
def test_every_key_of_every_choice_is_declared() -> None:
    for option in OPTIONS:
        values.check(configuration(option))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("+training.warmup_step=3", "there is no 'warmup_step' (did you mean warmup_steps?)"),
        ("+sead=1", "there is no 'sead' (did you mean seed?)"),
        ("+algorithm.label=all", "there is no 'label' (did you mean labels?)"),
        ("+beta.warmups=1", "there is no 'warmups' (did you mean warmup?)"),
        ("+teacher.budget.call=1", "there is no 'call' (did you mean calls?)"),
        ("+plan.run=x", "the section plan is for python -m experiments.plan"),
        ("algorithm.window=two", "algorithm.window=two: it is a whole number"),
        ("beta.warmup=1.5", "beta.warmup=1.5: it is a whole number"),
        ("algorithm.keep=some", "algorithm.keep=some: it is one of all, finished, resolved"),
        ("teacher.name=nobody", "teacher.name=nobody: it is one of expert, server, hf, trained"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(given: str, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        values.check(configuration(given))
    assert message in str(caught.value)


EXPERIMENTS = ("demo", "fast", "protocol", "paper/opd_8b", "paper/dagger_8b")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("teacher", ["expert", "hf", "policy", "server", "trained"])
def test_an_experiment_takes_any_teacher(experiment: str, teacher: str) -> None:
    """Its values for another teacher are left out; what the user gives for another is refused."""
    cfg = configuration(f"experiment={experiment}", f"teacher={teacher}")
    known = declared(TEACHERS[teacher])
    values.leave_out(cfg, ["teacher"])
    values.check(cfg)
    assert set(cfg.teacher) <= {*known, "_target_"} and len(cfg.teacher) > 3
    cfg = configuration(f"experiment={experiment}", f"teacher={teacher}", "++teacher.rounds=1")
    values.leave_out(cfg, ["teacher", "teacher.rounds"])
    if teacher == "trained":
        values.check(cfg)
    else:
        with pytest.raises(SetupError, match=r"^teacher.rounds: there is no 'rounds'"):
            values.check(cfg)


def test_several_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(SetupError) as caught:
        values.check(configuration("+sead=1", "+limits.turns=3", "rounds=-1"))
    assert len(str(caught.value).splitlines()) == 3


def test_an_older_configuration_is_completed() -> None:
    cfg = configuration("algorithm=grpo")
    older = OmegaConf.create(OmegaConf.to_container(cfg))
    for path in ("training.weight_decay", "evaluation.untrained", "teacher.verdict", "overlap"):
        above, _, name = path.rpartition(".")
        del (OmegaConf.select(older, above) if above else older)[name]
    older.algorithm.kl_kind = "k3"
    older.serving.wave = older.serving.pop("batch_size")
    older.plan = {"name": "embedded"}
    complete(older)
    values.check(older, stored=True)
    del older["plan"]
    values.check(older)
    assert run_folder(older).path == run_folder(cfg).path


def test_the_reference_is_up_to_date() -> None:
    """After a change: python -m experiments.config."""
    assert reference.PAGE.read_text() == reference.page()
    assert all(reference.attributes(m).keys() >= declared(m).keys() - {"name"} for m in METHODS)
