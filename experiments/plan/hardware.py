"""How fast a model answers and learns: on GPUs from data sheets, on this CPU from measurement.

A GPU that decodes reads all weights it needs and all keys and values once for each step, so bytes
bound it until the batch is large; prefill and training are bound by arithmetic. What share of the
data sheet real programs reach stands below and in plan.gpu; docs/reference/planner.md has the
sources.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from experiments.plan.shapes import BF16, Shape
from swe_gym_env.errors import SetupError


@dataclass(frozen=True)
class GPU:
    """``memory`` in bytes as the driver reports it, ``bandwidth`` in bytes and ``flops`` (dense
    bfloat16) per second."""

    memory: float
    bandwidth: float
    flops: float


# Assumptions that no set-up changes; docs/reference/planner.md has the sources
PREFILL_SHARE = 0.5  # of bf16 FLOP/s
TRAIN_SHARE = 0.35  # of bf16 FLOP/s, forward and backward
STEP_OVERHEAD_HF = 0.05  # seconds of a decoding step of serving=hf beside memory and arithmetic
TENSOR_PARALLEL_OVERHEAD = 0.0015  # seconds of a decoding step on more than one GPU
RESERVE = 0.05  # share of a GPU that training must leave: CUDA, NCCL, fragments
SERVER_START = 90.0  # seconds until a server answers again after training

# NVIDIA's data sheets of the SXM modules
GPUS = {
    "h100": GPU(79.6 * 2**30, 3.35e12, 989e12),
    "h200": GPU(140.4 * 2**30, 4.8e12, 989e12),
    "a100": GPU(79.3 * 2**30, 2.04e12, 312e12),
}


def gpu(name: str) -> GPU:
    if name not in GPUS:
        raise SetupError(f"cluster.gpu={name}: known are {', '.join(GPUS)}")
    return GPUS[name]


class Speed(Protocol):
    """Of one replica of a model."""

    def prefill(self, new: float, history: float) -> float:
        """Seconds for ``new`` tokens that follow ``history`` tokens which are there already."""

    def step(self, rows: int, context: float) -> float:
        """Seconds for one token more of ``rows`` answers whose contexts have ``context`` tokens
        together."""


class Roofline:
    """A model on ``tp`` GPUs that share its matrices. ``shares`` is the section plan.gpu;
    ``overhead`` are seconds of a decoding step beside memory and arithmetic."""

    def __init__(
        self, shape: Shape, gpu: GPU, tp: int, shares: DictConfig, overhead: float
    ) -> None:
        self.shape = shape
        self._bytes_a_second = tp * gpu.bandwidth * shares.bandwidth_share
        self._flops_a_second = tp * gpu.flops * PREFILL_SHARE
        self._overhead = overhead + (TENSOR_PARALLEL_OVERHEAD if tp > 1 else 0.0)
        self._token_flops, self._kv_bytes = 2 * shape.active, shape.kv_bytes
        self._pair_flops = 4 * shape.layers * shape.queries  # of a token and one that it looks at
        self._read: dict[int, float] = {}

    def flops(self, new: float, history: float) -> float:
        """Of a forward pass over ``new`` tokens after ``history``, attention included."""
        return new * (self._token_flops + self._pair_flops * (history + new / 2))

    def prefill(self, new: float, history: float) -> float:
        return self.flops(new, history) / self._flops_a_second

    def step(self, rows: int, context: float) -> float:
        reading = (self._weights(rows) + context * self._kv_bytes) / self._bytes_a_second
        flops = rows * self._token_flops + context * self._pair_flops
        return max(reading, flops / self._flops_a_second) + self._overhead

    def _weights(self, rows: int) -> float:
        """Bytes of all weights that ``rows`` tokens need: of experts, those that any of them
        picks."""
        if rows not in self._read:
            shape = self.shape
            used = shape.experts * (1 - (1 - shape.active_experts / shape.experts) ** rows)
            weights = shape.layers * shape.layer(round(used)) + shape.embedding
            self._read[rows] = weights * BF16
        return self._read[rows]


@dataclass(frozen=True)
class CPU:
    """This machine, all figures in seconds or per second.

    ``decode`` maps a batch to the seconds of one step (straight lines between), ``prefill`` and
    ``train`` are tokens a second, ``update`` is one step of the optimizer, ``start`` the loading of
    the libraries, ``load`` and ``save`` are of the model. Work in sandboxes is CPU time of one item
    when many run at once; ``step`` is the mean over an episode's turns, ``finish`` the diff at its
    end, ``expert`` what the built-in teacher looks up for one turn. ``parallel`` of them run at
    full speed at once.

    The defaults are those of the machine of docs/research/benchmarks.md (2 threads of one core)
    with SmolLM2-135M, from the first three phases of one run on it (docs/reference/planner.md).
    """

    parallel: float = 1
    prefill: float = 700.0
    decode: Mapping[str, float] = field(
        default_factory=lambda: {"1": 0.075, "8": 0.10, "32": 0.17, "64": 0.225}
    )
    train: float = 275.0
    update: float = 0.4
    start: float = 10.0
    load: float = 1.0
    save: float = 0.4
    reset: float = 0.007
    step: float = 0.11
    finish: float = 0.012
    grade: float = 0.38
    expert: float = 0.015

    def step_seconds(self, rows: int) -> float:
        points = sorted((int(batch), seconds) for batch, seconds in self.decode.items())
        if rows <= points[0][0]:
            return points[0][1]
        for (low, first), (high, last) in itertools.pairwise(points):
            if rows <= high:
                return first + (last - first) * (rows - low) / (high - low)
        (low, first), (high, last) = points[-2:] if len(points) > 1 else [(0, 0.0), points[0]]
        return last + (last - first) / (high - low) * (rows - high)


@dataclass(frozen=True)
class OnCPU:
    """A model in this process, without a GPU. Decoding was measured with histories of a few hundred
    tokens, as the embedded tasks have them."""

    cpu: CPU

    def prefill(self, new: float, history: float) -> float:
        return new / self.cpu.prefill

    def step(self, rows: int, context: float) -> float:
        return self.cpu.step_seconds(rows)


def calibration_file(plan: DictConfig) -> Path:
    from swe_gym_env.paths import home

    return Path(plan.calibration) if plan.calibration else home() / "plan.json"


def calibrated(plan: DictConfig) -> dict[str, Any]:
    """What ``plan.calibrate`` measured here, with the ``dtype`` and ``threads`` it was measured in;
    {} where it never was. SetupError where the file cannot be read."""
    file = calibration_file(plan)
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(
            f"{file} is no calibration ({error}): delete it, or give plan.calibration=FILE"
        ) from None


def this_cpu(plan: DictConfig) -> CPU:
    """The defaults, under what was calibrated here, under what the configuration says."""
    known = {field.name for field in fields(CPU)}
    found = {key: value for key, value in calibrated(plan).items() if key in known}
    for section in (plan.cpu, plan.sandboxes):
        found |= {str(key): value for key, value in section.items() if value is not None}
    return replace(CPU(), **found)


def measured_with(cfg: DictConfig) -> str:
    """One line: in which precision the CPU's figures were measured, and whether a run takes it."""
    found = calibrated(cfg.plan)
    again = "python -m experiments.plan plan.calibrate=true"
    if not found:
        return (
            "CPU: the figures of a machine with bfloat16 units (docs/research/benchmarks.md); one "
            f"without them trains more slowly. {again} measures this one"
        )
    dtype, threads = found.get("dtype", "bfloat16"), found.get("threads")
    on = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    if cfg.model.dtype in ("auto", dtype):
        return f"CPU: as calibrated here ({dtype}{on})"
    return (
        f"CPU: as calibrated here in {dtype}{on}, but model.dtype={cfg.model.dtype}: "
        f"{again} model.dtype={cfg.model.dtype} measures that"
    )
