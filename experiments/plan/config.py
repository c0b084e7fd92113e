"""The section ``plan`` of ``python -m experiments.plan``: what is assumed of agents and machines.

A run has no such section. The defaults are those of the embedded set-up, from earlier runs of it;
docs/reference/planner.md names the sources. The files of ``experiments/plan/conf/plan`` change
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hydra.core.config_store import ConfigStore

from experiments.config import schema
from experiments.config.keys import NOTHING, defaults, key, required, section


@dataclass(kw_only=True)
class AgentHabits:
    """How one agent behaves, on average."""

    turns: float = key(1.0, "Turns of an episode", above=0)
    generated: float = key(1.0, "Tokens of a turn, at most sampling.max_new_tokens", least=0)
    resolved: float = key(0.0, "Share of tasks that it resolves", least=0, most=1)
    acts: float = key(1.0, "Share of turns with a call that can be run", least=0, most=1)
    spread: float = key(0.0, "Standard deviation of the turns over their mean", least=0)


@dataclass(kw_only=True)
class Spread:
    """Standard deviations over the mean."""

    generated: float = key(0.1, "Of a turn's tokens", least=0)
    step: float = key(1.5, "Of a command's seconds", least=0)


@dataclass(kw_only=True)
class SandboxSeconds:
    """CPU seconds of work in sandboxes. null: as ``plan.calibrate=true`` measured here, otherwise
    the defaults of experiments/plan/hardware.py."""

    reset: float | None = key(None, "Start of an episode", least=0)
    step: float | None = key(None, "One command", least=0)
    finish: float | None = key(None, "The diff at the end of an episode", least=0)
    grade: float | None = key(None, "The task's tests", least=0)
    expert: float | None = key(None, "What the expert looks up for one turn", least=0)


@dataclass(kw_only=True)
class CPUSpeed:
    """The model on this CPU. null as for the sandboxes."""

    parallel: float | None = key(None, "Sandboxes that run at full speed at once", above=0)
    prefill: float | None = key(None, "Prompt tokens a second", above=0)
    decode: dict[str, float] | None = key(None, "Seconds of a step by batch, {1: 0.1, 8: 0.3}")
    train: float | None = key(None, "Trained tokens a second", above=0)
    update: float | None = key(None, "Seconds of an optimizer step", least=0)
    start: float | None = key(None, "Seconds to import the libraries", least=0)
    load: float | None = key(None, "Seconds to load the model", least=0)
    save: float | None = key(None, "Seconds to save the model", least=0)


@dataclass(kw_only=True)
class GPUShares:
    """Which share of the data sheet is reached, and what a GPU costs."""

    bandwidth_share: float = key(0.65, "Of memory bandwidth while decoding", above=0, most=1)
    step_overhead: float = key(
        0.0004, "Seconds of a decoding step beside reading and FLOPs", least=0
    )
    memory_share: float = key(0.9, "Of a GPU's memory that a server takes", above=0, most=1)
    hour: float | None = key(2.5, "Price of one GPU for an hour; null: unknown", least=0)


@dataclass(kw_only=True)
class Node:
    """One machine of the cluster."""

    gpus: int = key(8, "GPUs", least=1)
    cpus: int = key(128, "CPUs", least=1)
    disk_gb_s: float = key(2.0, "Disk bandwidth, GB a second", above=0)
    network_gb_s: float = key(0.5, "Network bandwidth, GB a second", above=0)


@dataclass(kw_only=True)
class Assumptions:
    """The section ``plan``."""

    name: str = required("Which assumptions")
    calibrate: bool = key(False, "Measure this machine for later plans, some two minutes")
    calibration: str | None = key(None, "File of that; null: plan.json in SWE_GYM_HOME")
    run: str | None = key(None, "A run folder: take turns and tokens from its episodes")
    opening: int = key(160, "Tokens of the system prompt and the problem", least=0)
    observed: int = key(36, "Tokens of a command's output, with the chat template's", least=0)
    untrained: AgentHabits = section(
        lambda: AgentHabits(turns=2.3, generated=1000, resolved=0.0, acts=0.13, spread=0.55),
        "The student before training: it babbles",
    )
    student: AgentHabits = section(
        lambda: AgentHabits(turns=4.4, generated=31, resolved=0.35, acts=0.97, spread=0.2),
        "The student once trained",
    )
    teacher: AgentHabits = section(
        lambda: AgentHabits(turns=4.1, generated=29, resolved=0.95, acts=1.0, spread=0.07),
        "The teacher",
    )
    spread: Spread = section(Spread, "Spread of tokens and times")
    image_gb: float = key(0.0005, "Disk of one task beside what tasks share, GB", least=0)
    sandboxes: SandboxSeconds = section(SandboxSeconds, "CPU seconds of work in sandboxes")
    cpu: CPUSpeed = section(CPUSpeed, "Speed of the model on this CPU")
    gpu: GPUShares = section(GPUShares, "Speed and price of GPUs")
    node: Node = section(Node, "One machine")
    teacher_gpus: int | None = key(
        None, "GPUs of the teacher; null: half of them, if it is a server of ours", least=0
    )


@dataclass(kw_only=True)
class LocalGPUs(schema.Local):
    """This machine, with the GPUs to plan with."""

    gpus: int | None = key(None, "GPUs to plan with; null: those of this machine", least=0)
    gpu: Literal["h100", "h200", "a100"] = key("h100", "Kind of GPU; a100 has 80 GB")


@dataclass(kw_only=True)
class RayGPUs(schema.RayCluster):
    """A Ray cluster, with the GPUs to plan with."""

    gpus: int | None = key(None, "GPUs to plan with; null: those of this machine", least=0)
    gpu: Literal["h100", "h200", "a100"] = key("h100", "Kind of GPU; a100 has 80 GB")


@dataclass(kw_only=True)
class PlannerConfig(schema.RunConfig):
    """The configuration of ``python -m experiments.plan``."""

    plan: Assumptions = required("What is assumed of agents and machines", affects=NOTHING)
    cluster: LocalGPUs | RayGPUs = required(  # type: ignore[assignment]
        "Which machines do the work",
        variants={"local": LocalGPUs, "ray": RayGPUs},
        affects=NOTHING,
    )


ConfigStore.instance().store("Assumptions", defaults(Assumptions))
