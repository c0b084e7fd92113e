"""``auto`` is decided once: what keeps it, what shares it, what it is called, what is refused."""

from __future__ import annotations

import json
import logging
import platform
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from algorithms.engine import precision as measured
from algorithms.engine.precision import Choice
from experiments import annotate
from experiments.evaluate import folder_of
from experiments.pipeline import precision, preflight
from experiments.pipeline.build import RunContext
from experiments.plan.hardware import measured_with, this_cpu
from experiments.runs.folders import RunFolder, iteration0_folder, run_folder, trained_folder
from swe_gym_env.errors import SetupError
from tests.algorithms.test_precision import AVX2
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration, planned

AUTO = ("model.dtype=auto", "workers.threads=auto")
OLD = "aaaa"  # a machine


class Machine:
    """What is measured on it, and how often; as if the tests ran there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, threads: int):
        self.asked: list[tuple[str | None, int | None]] = []

        def choose(_: Path, given: str | None = None, count: int | None = None) -> Choice:
            self.asked.append((given, count))
            return Choice(given or dtype, count or threads, "measured")

        monkeypatch.setattr(measured, "machine", lambda: name)
        monkeypatch.setattr(measured, "choose", choose)
        monkeypatch.setattr(measured, "ALL_THREADS", 4)


def context(*overrides: str) -> RunContext:
    made = RunContext(configuration(*overrides))
    made.student.__dict__["start"] = Path("/nowhere")
    return made


def begun(folder: Path, *overrides: str) -> RunContext:
    """A run that has settled in ``folder``."""
    made = context(*overrides)
    made.student.settle(folder)
    RunFolder(folder).start(made.cfg)
    return made


WRONG = [
    *("model.dtype=bf16", "model.dtype=fp32", "model.dtype=float64", "model.dtype=float16"),
    *("model.dtype=null", "model.dtype=AUTO", "model.dtype=16", "model.dtype=torch.float32"),
    *("workers.threads=0", "workers.threads=-1", "workers.threads=two", "workers.threads=1.5"),
    *("workers.threads=true", "workers.threads=all", "workers.threads=[1]"),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_mistyped_is_refused_with_what_can_be_given(wrong: str) -> None:
    key, value = wrong.split("=")
    with pytest.raises(SetupError) as refused:
        preflight.check(configuration(wrong))
    assert str(refused.value).startswith(f"{key}={value}:".replace("=true", "=True"))
    assert "auto" in str(refused.value)
    with pytest.raises(SetupError, match=key):
        _ = RunContext(configuration(wrong)).student.dtype


def test_a_teachers_precision_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"teacher\.dtype=bf16: .* null for the student's"):
        preflight.check_teacher(configuration("teacher=hf", "teacher.dtype=bf16"))


@pytest.mark.parametrize("module", ["run", "evaluate", "plan", "teacher"])
def test_every_command_refuses_before_anything_is_built(job: Job, module: str) -> None:
    printed = job.run("model.dtype=bf16", module=f"experiments.{module}", code=2)
    assert "model.dtype=bf16: it is auto" in printed and "Traceback" not in printed
    assert not list(job.runs.glob("*/config.yaml"))


def test_a_new_run_measures_and_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "experiments")  # a command of another test may have set it
    here = Machine(monkeypatch, "new", "float32", 4)
    made = begun(tmp_path, *AUTO)
    assert here.asked == [(None, None)] and made.student.precision == "float32"
    (line,) = caplog.messages
    assert line == "model.dtype=auto is float32, workers.threads=auto is 4 (measured)"
    stored = OmegaConf.load(tmp_path / "config.yaml")
    assert stored.decided == {"dtype": "float32", "threads": 4, "machine": "new"}
    assert stored.model.dtype == "auto" and precision.threads(made.cfg) == 4


def test_it_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch, OLD, "float32", 4)
    begun(tmp_path, *AUTO)
    caplog.set_level(logging.INFO, "experiments")  # a command of another test may have set it
    again = Machine(monkeypatch, OLD, "bfloat16", 1)  # busy, or of another opinion today
    made = begun(tmp_path, *AUTO)
    assert again.asked == [] and (made.student.precision, made.student.threads) == (
        "float32",
        4,
    )
    assert "stays float32, with which this run began, workers" in caplog.messages[-1]
    other = Machine(monkeypatch, "with units", "bfloat16", 2)
    made = begun(tmp_path, *AUTO)
    assert other.asked == [("float32", None)], "only the threads"
    assert (made.student.precision, made.student.threads) == ("float32", 2)
    assert f"stays float32, with which this run began on another machine ({OLD})" in caplog.text
    stored = OmegaConf.load(tmp_path / "config.yaml")
    assert isinstance(stored, DictConfig)
    # as training in another process, annotation and analysis read it
    elsewhere = RunContext(stored).student
    assert elsewhere.precision == "float32" and elsewhere.dtype == torch.float32
    assert torch.get_num_threads() == 2 and len(other.asked) == 1
    torch.set_num_threads(1)


@pytest.mark.slow
def test_what_is_given_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine(monkeypatch, OLD, "bfloat16", 4)
    made = begun(tmp_path, "model.dtype=float32", "workers.threads=3")
    assert here.asked == [] and (made.student.precision, made.student.threads) == (
        "float32",
        3,
    )
    made = begun(tmp_path, "model.dtype=float32", "workers.threads=null")
    assert here.asked == [] and precision.threads(made.cfg) == 4
    made = begun(tmp_path, "model.dtype=float32", "workers.threads=auto")
    assert here.asked == [("float32", None)]
    monkeypatch.setenv("WORLD_SIZE", "2")  # a launcher shares out the processor itself
    assert precision.threads(made.cfg) == 4
    made = begun(tmp_path / "other", "model.dtype=float32", "workers.threads=auto")
    assert len(here.asked) == 1 and precision.threads(made.cfg) == 4


@pytest.mark.slow
def test_names_say_what_was_asked_for_and_of_what_is_shared_what_was_decided() -> None:
    def names(*given: str) -> list[str]:
        cfg = configuration("teacher=trained", *given)
        return [f(cfg).path.name for f in (run_folder, folder_of, trained_folder)]

    asked = [names(), names("model.dtype=bfloat16"), names("model.dtype=float32")]
    assert names() == names("model.dtype=auto") == names("workers.threads=7")
    for one in zip(*asked, strict=True):
        assert len(set(one)) == 3
    assert run_folder(configuration("model.dtype=bfloat16")).path.name == "dagger-23b83b7a90"

    def shared(dtype: str, decided: str | None) -> str:
        cfg = configuration(f"model.dtype={dtype}")
        with open_dict(cfg):
            cfg.decided = decided and {"dtype": decided, "threads": 1, "machine": OLD}
        return iteration0_folder(cfg, ["a"]).path.name

    assert shared("auto", "bfloat16") == shared("bfloat16", None) == "iteration0-17d28743d4"
    assert shared("auto", "float32") == shared("float32", "float32") != shared("auto", "bfloat16")


@pytest.mark.slow
def test_runs_of_an_older_version_are_found_and_stay_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (f"paths.runs={tmp_path}", "teacher=trained")
    for find in (run_folder, folder_of, trained_folder):
        old = configuration(*asked, "model.dtype=bfloat16")
        new, folder = find(configuration(*asked)).path, find(old)
        del old._content["decided"]  # type: ignore[union-attr]  # as it was written then
        folder.start(old)
        assert find(configuration(*asked)).path == folder.path != new
        here = Machine(monkeypatch, "without units", "float32", 2)
        made = context(*asked)
        made.student.settle(folder.path)
        assert made.student.precision == "bfloat16" and here.asked == [("bfloat16", None)]
        folder.start(made.cfg)
        (folder.path / "config.yaml").unlink()
        folder.start(configuration(*asked, "model.dtype=bfloat16"))
        assert find(configuration(*asked)).path == new, "asked for by a run of this version"


@pytest.mark.slow
def test_the_runs_of_a_sweep_compute_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch, OLD, "float32", 4)
    begun(tmp_path / "asked otherwise", "model.dtype=bfloat16")
    begun(tmp_path / "first", *AUTO)
    here = Machine(monkeypatch, "with units", "bfloat16", 2)
    cells = [tmp_path / name for name in ("waiting", "asked otherwise", "first", "mine")]
    made = context(*AUTO)
    caplog.set_level(logging.INFO, "experiments")  # a command of another test may have set it
    made.student.settle(cells[-1], precision.of_sweep(cells, made.cfg))
    assert made.student.precision == "float32" and here.asked == [("float32", None)]
    assert "is float32, with which first began on another machine (aaaa)" in caplog.text
    other = configuration("model.path=/another/model")
    assert precision.of_sweep(cells, other) is None, "of other shapes"


def test_a_checkpoint_is_measured_as_its_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, OLD, "float32", 4)
    begun(tmp_path / "run", *AUTO)
    checkpoint = tmp_path / "run" / "rounds" / "round_001" / "checkpoint"
    assert (kept := precision.of_checkpoint(str(checkpoint))) and kept.dtype == "float32"
    assert precision.of_checkpoint("smollm2") is None


@pytest.mark.timeout(900)
def test_a_run_is_killed_and_goes_on_as_on_another_machine(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() != "x86_64":
        return  # such a processor cannot be made to look like another
    for name, value in AVX2.items():
        monkeypatch.setenv(name, value)
    until = "dagger-*/rounds/round_001/episodes.jsonl"
    job.interrupted(until, 1, signal.SIGKILL, *AUTO, within=400)
    for name in AVX2:
        monkeypatch.delenv(name)
    printed = job.run(*AUTO, "training.launch=[python]")
    assert printed.count("stays float32, with which this run began on another machine") == 1
    config = OmegaConf.load(job.folder() / "config.yaml")
    assert (config.model.dtype, config.decided.dtype) == ("auto", "float32")
    for index in (0, 1):
        saved = job.folder() / f"rounds/round_00{index}/checkpoint/config.json"
        assert json.loads(saved.read_text())["dtype"] == "float32"
    assert len(list(job.runs.glob("iteration0-*"))) == 1
    label = ("round=1", "teacher=expert", "workers.concurrency=2")
    run = f"run={job.folder()}"
    assert "labels by expert" in job.by_hand("experiments.annotate", run, *label)


@pytest.mark.slow
def test_the_plan_says_in_which_precision_it_was_measured(tmp_path: Path) -> None:
    given = f"plan.calibration={tmp_path / 'plan.json'}"
    assert "with bfloat16 units" in measured_with(planned(given))
    file = {"dtype": "float32", "threads": 2, "train": 61.0}
    (tmp_path / "plan.json").write_text(json.dumps(file))
    assert this_cpu(planned(given).plan).train == 61.0
    assert "as calibrated here (float32, 2 threads)" in measured_with(planned(given))
    other = measured_with(planned(given, "model.dtype=bfloat16"))
    assert "in float32" in other and "model.dtype=bfloat16 measures that" in other
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SetupError, match="is no calibration"):
        this_cpu(planned(given).plan)


@pytest.mark.slow
def test_annotation_refuses_a_wrong_number_of_threads(tmp_path: Path) -> None:
    begun_ = OmegaConf.to_yaml(configuration("model.dtype=float32", "workers.threads=1"))
    (tmp_path / "config.yaml").write_text(begun_)
    given = (f"run={tmp_path}", "round=1", "teacher=expert", "workers.threads=two")
    with pytest.raises(SetupError, match=r"workers\.threads=two"):
        preflight.check_teacher(annotate.configuration(given))
