"""The choice of precision and threads on this machine, on simulated ones and on unusual ones."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from algorithms.engine import precision
from algorithms.engine.precision import Choice, choose
from tests.algorithms.conftest import tiny_model

# Of a processor without bfloat16 units, as oneDNN, torch and MKL understand it
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SAY = """import json, sys, torch
from algorithms.engine import precision
print(json.dumps([precision.choose(sys.argv[1]).dtype, precision.machine(), precision.ALL_THREADS]))
"""


def elsewhere(folder: Path, **environment: str) -> tuple[str, str, int]:
    """The choice of another process for the model in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", SAY, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found[0], found[1], found[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(50).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("threads", ["1", "2"])
def test_cpu_without_bfloat16_units_takes_float32(smollm2: Path, threads: str) -> None:
    if platform.machine() != "x86_64":
        assert choose(smollm2).dtype in ("float32", "bfloat16")
        return  # such a processor cannot be made to look like one
    dtype, machine, most = elsewhere(smollm2, OMP_NUM_THREADS=threads, **AVX2)
    assert dtype == "float32" and "AVX2" in machine and most == int(threads)


def test_choice_matches_instruction_set(smollm2: Path) -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    found = choose(smollm2)
    assert found.dtype == ("bfloat16" if precision.has_units() else "float32")
    assert found.why.count("training ") == found.why.count("prefill ") == 1
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_given_values_are_not_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_Work", None)
    assert choose(folder, "float32", 7) == Choice("float32", 7)
    monkeypatch.setattr(precision, "ALL_THREADS", 1)
    assert choose(folder, "bfloat16") == Choice("bfloat16", 1), "one is all there is"


def fake(monkeypatch: pytest.MonkeyPatch, float32: float | None, bfloat16: float | None) -> None:
    """Simulate a machine that needs these seconds for everything; None means no kernel."""
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}

    def once(work: precision._Work) -> precision._Speed:
        one = seconds[work.head.dtype]
        if one is None:
            raise RuntimeError("could not create a primitive")
        return precision._Speed(one, one, one)

    monkeypatch.setattr(precision._Work, "measure", once)
    monkeypatch.setattr(precision, "_has_gpu", lambda: False)


@pytest.mark.parametrize(
    ("units", "float32", "bfloat16", "wanted"),
    [
        (True, 1.0, 0.5, "bfloat16"),
        (True, 1.0, 1.2, "bfloat16"),  # near a tie what it is made for
        (True, 1.0, 1.4, "float32"),  # units that only exist on paper
        (False, 1.0, 15.0, "float32"),
        (False, 1.0, 0.9, "float32"),
        (False, 1.0, 0.7, "bfloat16"),  # units that nobody knows of
        (False, 1.0, None, "float32"),
        (True, 1.0, None, "float32"),
        (True, None, 1.0, "bfloat16"),
    ],
)
def test_speed_decides_and_hardware_near_tie(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    units: bool,
    float32: float | None,
    bfloat16: float | None,
    wanted: str,
) -> None:
    fake(monkeypatch, float32, bfloat16)
    monkeypatch.setattr(precision, "has_units", lambda: units)
    found = choose(folder, threads=1)
    assert found.dtype == wanted
    assert ("cannot compute" in found.why) == (None in (float32, bfloat16))


def test_torch_without_onednn_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 1.0, 2.0)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not precision.has_units() and choose(folder, threads=1).dtype == "float32"


@pytest.mark.parametrize("able", [True, False])
def test_gpu_takes_bfloat16_if_supported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    monkeypatch.setattr(precision, "_has_gpu", lambda: True)
    monkeypatch.setattr(precision, "_Work", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU 9000")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    found = choose(folder)
    assert found.dtype == ("bfloat16" if able else "float32") and "GPU 9000" in found.why
    assert found.threads == precision.ALL_THREADS and "GPU 9000" in precision.machine()


@pytest.mark.parametrize(
    ("wall", "cpu", "wanted", "how"),
    [
        ((1.0, 0.3), (1.0, 1.1), 4, "time"),
        ((1.0, 0.98), (1.0, 3.6), 1, "time"),  # two threads of one core, say
        ((1.5, 3.0), (1.0, 1.2), 4, "CPU time"),  # others have the processor: it decides as alone
        ((1.5, 3.0), (1.0, 3.9), 1, "CPU time"),
    ],
)
def test_threads_are_used_if_faster(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    wall: tuple[float, float],
    cpu: tuple[float, float],
    wanted: int,
    how: str,
) -> None:
    clocks = {"wall": 0.0, "cpu": 0.0, "count": 1}

    def once(_: precision._Work) -> None:
        which = clocks["count"] > 1
        clocks["wall"] += wall[which]
        clocks["cpu"] += cpu[which]

    monkeypatch.setattr(precision._Work, "measure", once)
    monkeypatch.setattr(precision, "ALL_THREADS", 4)
    monkeypatch.setattr(precision, "_has_gpu", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: clocks.update(count=count))
    monkeypatch.setattr(precision.time, "monotonic", lambda: clocks["wall"])
    monkeypatch.setattr(precision.time, "process_time", lambda: clocks["cpu"])
    found = choose(folder, "float32")
    assert found.threads == wanted and f"of the {how} of one" in found.why


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(precision, "CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    yield tmp_path


def test_container_cpu_limit_is_respected(cgroup: Path) -> None:
    assert precision._allowed() == float("inf")
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert precision._allowed() == float("inf")
    (cgroup / "cpu.max").write_text("150000 100000\n")
    assert precision._allowed() == 1.5
    (cgroup / "cpu.max").unlink()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert precision._allowed() == 2.0
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert precision._allowed() == float("inf")


def test_measured_shapes_are_those_of_model(smollm2: Path, folder: Path, tmp_path: Path) -> None:
    assert precision._sizes(smollm2) == (576, 1536, 49152, 30)
    least = precision.MIN_SIZE
    assert precision._sizes(folder) == (least, least, 50, 3), "calls would be measured"
    large = precision._Work(folder, torch.float32, 4)
    assert {weight.shape for weight in large.weights} == {(least, least)}
    assert precision._sizes(tmp_path / "nowhere") == precision.DEFAULT_SIZES
