"""A plan agrees with arithmetic where arithmetic is enough, and with what was measured."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import simpy
from omegaconf import DictConfig

from experiments.plan import memory
from experiments.plan.engine import Engine
from experiments.plan.hardware import CPU, GPUS, OnCPU, Roofline, calibration_file, this_cpu
from experiments.plan.known import Facts
from experiments.plan.phases import Planner
from experiments.plan.shapes import KNOWN, shape
from experiments.plan.simulate import Machine, SandboxTimes, Script, play, play_many
from experiments.runs.folders import RunFolder, run_folder
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode, Outcome, ToolCall, Turn
from tests.experiments.conftest import ROOT, Job
from tests.experiments.test_configuration import CONF, configuration, planned

QWEN8B, CODER = KNOWN["Qwen/Qwen3-8B"], KNOWN["Qwen/Qwen3-Coder-30B-A3B-Instruct"]
SMALL = ("rounds=1", "episodes_per_round=8", "iteration0.episodes=8", "evaluation.tasks=4")
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
METHODS = sorted(file.stem for file in (CONF / "algorithm").glob("*.yaml"))


def paper(*overrides: str) -> DictConfig:
    return planned("algorithm=dagger", "model=qwen8b", *overrides)


# -- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("Qwen/Qwen3-8B", 8.19, 7.57),
        ("Qwen/Qwen3-4B-Instruct-2507", 4.02, 4.02),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 30.53, 3.04),
        ("smollm2", 0.1345, 0.1345),
    ],
)
def test_parameters_are_those_of_the_model_cards(name: str, billions: float, active: float) -> None:
    """Active ones without the embedding that is only looked up."""
    assert KNOWN[name].parameters / 1e9 == pytest.approx(billions, rel=0.002)
    assert KNOWN[name].active / 1e9 == pytest.approx(active, rel=0.005)


def test_a_folder_gives_the_same_as_the_table(smollm2: Path) -> None:
    assert shape(str(smollm2)) == KNOWN["smollm2"]
    assert shape("nobody/knows-this") is None


@pytest.mark.slow
def test_memory_of_training_in_closed_form() -> None:
    cfg = paper()
    use = memory.training(cfg, 4, GPUS["h100"])
    size = 8_190_735_360
    assert QWEN8B.parameters == size
    assert use.parts["masters"] == size * 4 / 4
    assert use.parts["moments"] == size * 8 / 4
    assert QWEN8B.kv_bytes == 2 * 36 * 8 * 128 * 2
    lora = memory.training(planned("model=qwen8b", "training.lora_rank=16"), 4, GPUS["h100"])
    assert lora.parts["moments"] < 0.01 * use.parts["moments"]


def test_activations_are_those_measured_on_an_h100() -> None:
    """One tree of 65 536 tokens (docs/research/benchmarks.md): 4.4 GB recomputed, 49.4 not."""
    model = KNOWN["smollm2"]
    assert memory.activations(model, 65536, True) == pytest.approx(4.4e9, rel=0.1)
    assert memory.activations(model, 65536, False) == pytest.approx(49.4e9, rel=0.1)


@pytest.mark.slow
def test_what_does_not_fit_says_so_and_the_nearest_that_does() -> None:
    for given, gpus in ((("cluster.gpus=4",), 4), (("training.checkpointing=false",), 8), ((), 0)):
        cfg = paper(*given)
        with pytest.raises(SetupError) as refused:
            memory.check(cfg, gpus)
        words = str(refused.value)
        assert "short" in words or "needs GPUs" in words
        change = re.search(r"nearest that fits: (.*)", words)
        assert change is not None
        other = memory.changed(cfg, change[1].split())
        assert not memory.too_large(other, other.cluster.gpus or gpus)
    memory.check(paper(), 8)


# -- speeds -----------------------------------------------------------------------------------


def test_decoding_is_as_fast_as_published() -> None:
    """vLLM 0.11, Qwen3-8B on one H100, 4 requests of some 340 tokens at once: 7.38 ms a token."""
    speed = Roofline(QWEN8B, GPUS["h100"], 1, paper().plan.gpu, paper().plan.gpu.step_overhead)
    assert speed.step(4, 4 * 340) == pytest.approx(7.38e-3, rel=0.1)
    assert speed.step(64, 64 * 30_000) > 4 * speed.step(
        64, 64 * 300
    )  # keys and values are read too


def test_experts_are_read_as_more_rows_pick_them() -> None:
    speed = Roofline(CODER, GPUS["h100"], 1, paper().plan.gpu, 0.0)
    assert speed.step(64, 0) > 8 * speed.step(1, 0)
    whole = CODER.parameters * 2 / (3.35e12 * 0.65)
    assert speed.step(1000, 0) < whole * 1.01


# -- the simulation against closed forms ------------------------------------------------------

CPU_ONLY = CPU(decode={"1": 1.0, "2": 1.0, "64": 1.0}, prefill=10.0)


def machine(concurrency: int, rows: int = 64, cache: float = 1e9, prefill: float = 10.0) -> Machine:
    cpu = replace(CPU_ONLY, prefill=prefill)

    def student(env: simpy.Environment, _: object) -> list[Engine]:
        return [Engine(env, OnCPU(cpu), rows, cache, continuous=False)]

    return Machine(SandboxTimes(3.0, 2.0, 7.0, None, 64), student, None, None, concurrency)


def script(turns: int, generated: int = 5, observed: int = 20, step: float = 4.0) -> Script:
    return Script(
        (observed,) * turns, (generated,) * turns, (False,) * turns, (0,) * turns, (step,) * turns
    )


def test_one_episode_takes_the_sum_of_its_parts() -> None:
    played = play([script(6)], machine(1), annotate=False)
    reset, finish, grade = 3.0, 2.0, 7.0
    expected = reset + 6 * (20 / 10 + 5 * 1.0 + 4.0) + finish + grade
    assert played.seconds == pytest.approx(expected)
    assert sum(played.waited.values()) == pytest.approx(expected)
    assert played.waited["decode (student)"] == pytest.approx(30)
    assert played.student.computed == 6 * 20 and played.student.generated == 30


def test_without_a_cache_every_history_is_computed_again() -> None:
    played = play([script(6)], machine(1, cache=0), annotate=False)
    histories = sum(20 * (turn + 1) + 5 * turn for turn in range(6))
    assert played.student.computed == played.student.prompt == histories


def test_with_room_for_all_it_takes_as_long_as_the_longest() -> None:
    lengths = [2, 9, 4, 7]
    several = play(
        [script(n, observed=0) for n in lengths], machine(4, prefill=1e9), annotate=False
    )
    alone = play([script(9, observed=0)], machine(1, prefill=1e9), annotate=False)
    assert several.seconds == pytest.approx(alone.seconds)


def test_decoding_bound_is_tokens_over_throughput() -> None:
    """Eight at once, of which two decode, at a second for each step: 8 x 100 tokens at 2 a second.
    An episode waits for those before it, and a slot is idle when its episode has ended."""
    scripts = [script(1, generated=100, observed=0, step=0.0) for _ in range(8)]
    played = play(scripts, machine(8, rows=2, prefill=1e9), annotate=False)
    reset, finish, grade = 3.0, 2.0, 7.0
    assert played.seconds == pytest.approx(reset + 8 * 100 / 2 + finish + grade)
    assert played.waited["decode (student)"] == pytest.approx((100 + 200 + 300 + 400) / 4)
    assert sum(played.waited.values()) == pytest.approx(played.seconds)


def test_one_processor_does_all_the_work_one_after_another() -> None:
    cpu = replace(CPU_ONLY, prefill=1e9)

    def student(env: simpy.Environment, processor: simpy.Resource | None) -> list[Engine]:
        return [Engine(env, OnCPU(cpu), 8, 1e9, continuous=True, processor=processor)]

    one = Machine(machine(4).sandboxes, student, None, 1, 4)
    played = play([script(1, generated=1, observed=0) for _ in range(4)], one, annotate=False)
    sandboxes = 4 * (3.0 + 4.0 + 2.0 + 7.0)
    assert sandboxes + 1.0 <= played.seconds <= sandboxes + 4.0, "a step for some of them or each"


def test_a_long_phase_goes_on_as_its_beginning_did() -> None:
    scripts = [script(3) for _ in range(200)]
    whole = play(scripts, machine(8), annotate=False)
    sample = play_many(scripts[:64], machine(8), annotate=False, count=200)
    assert sample.seconds == pytest.approx(whole.seconds, rel=0.05)
    assert sum(sample.waited.values()) == pytest.approx(sample.seconds)
    assert sample.turns == whole.turns


# -- whole plans ------------------------------------------------------------------------------


def hours(cfg: DictConfig, gpus: int) -> float:
    return sum(phase.seconds for phase in Planner(cfg, gpus).run(quick=True)) / 3600


@pytest.mark.slow
def test_more_gpus_never_take_longer() -> None:
    cfg = paper(
        "rounds=1", "iteration0.episodes=32", "episodes_per_round=32", "limits.max_turns=20"
    )
    planned_hours = [hours(cfg, gpus) for gpus in (8, 16, 32)]
    assert all(later <= sooner * 1.01 for sooner, later in itertools.pairwise(planned_hours)), (
        planned_hours
    )


@pytest.mark.slow
def test_a_phase_for_each_of_the_run_and_the_teacher_where_it_is_asked() -> None:
    phases = {phase.name: phase for phase in Planner(planned(*SMALL), 0).run()}
    expected = ["evaluate untrained", "collect round_000", "train round_000", "evaluate iteration0"]
    expected += ["collect round_001", "train round_001", "evaluate round_001"]
    assert list(phases) == expected
    assert all(phase.seconds > 0 and phase.bound for phase in phases.values())
    scored = planned("algorithm=gkd", "teacher=trained", *SMALL)
    names = [phase.name for phase in Planner(scored, 0).run()]
    assert names.index("score round_001") == names.index("collect round_001") + 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_every_method_can_be_planned_with_every_model(model: str, method: str) -> None:
    given = ["limits.max_turns=6", "plan.student.turns=4", "plan.teacher.turns=4"]
    cfg = planned(f"model={model}", f"algorithm={method}", *SMALL, *given)
    phases = Planner(cfg, 16 if cfg.model.requires.gpus else 0).run(quick=True)
    assert phases[-1].name == "evaluate round_001" and phases[-1].seconds > 0
    (training,) = [phase for phase in phases if phase.name == "train round_001"]
    assert training.trained > 0 or method in {"rft", "oec", "grpo"}  # nothing may be resolved


@pytest.mark.slow
def test_what_is_assumed_changes_no_run() -> None:
    one = run_folder(configuration()).path
    assert run_folder(planned("plan.student.turns=9", "cluster.gpus=3")).path == one
    assert "plan" not in configuration("model=qwen8b") and "gpus" not in configuration().cluster


@pytest.mark.e2e
def test_the_command_prints_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.plan", "algorithm=dagger", "model=qwen8b"]
    command += ["cluster.gpus=8", f"paths.runs={tmp_path}", "teacher.prices.prompt=0.1"]
    command += ["teacher.prices.generated=0.4", "limits.max_turns=8", *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for words in (
        *("GPU placement", "tensor parallel 4", "Memory of each GPU", "masters", "moments"),
        *("activations", "KV cache", "mostly", "collect round_001", "train round_001"),
        *("money, by teacher.prices", "GPU hours", "images of", "does not fit", "plot: "),
    ):
        assert words in done.stdout, words
    picture = (tmp_path / "plan-dagger-qwen8b.svg").read_text()
    assert picture.startswith("<svg xmlns")
    assert ">64</text>" in picture and "best number in flight" in picture
    refused = subprocess.run(
        [*command[:5], "cluster.gpus=2"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert refused.returncode == 2 and "nearest that fits" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_this_machine_is_measured_and_the_command_line_wins(job: Job) -> None:
    printed = job.run("plan.calibrate=true", module="experiments.plan")
    cfg = planned()
    assert "decode" in printed and calibration_file(cfg.plan).is_file()
    found = this_cpu(cfg.plan)
    assert found.grade > 0 and found.prefill > 0 and found.train > 0 and found != CPU()
    assert this_cpu(planned("plan.sandboxes.grade=99").plan).grade == 99


@pytest.mark.slow
def test_a_run_that_has_been_says_its_own_turns_and_tokens(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no run folder"):
        Facts.of(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    folder = RunFolder(tmp_path).round(1)
    call = ToolCall("bash", {"command": "ls"})
    turns = tuple(Turn("", "student", "ls", call, token_ids=(1,) * 40) for _ in range(7))
    for number in range(8):
        outcome = Outcome("resolved", 1.0)
        folder.append(Episode(str(number), "t", 0, 1, number, "", turns, outcome, "finished"))
    folder.add_metrics(trees=5, trained_tokens=1000)
    cfg = planned(*SMALL, "beta=constant", "beta.start=0")
    planner = Planner(cfg, 0, Facts.of(str(tmp_path)))
    phases = {phase.name: phase for phase in planner.run()}
    assert phases["collect round_001"].turns == 8 * 7
    assert phases["collect round_001"].student.generated == 8 * 7 * 40
    assert phases["train round_001"].trained == 1000
