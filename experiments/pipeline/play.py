"""Plays episodes into a folder, and goes on where an earlier start was stopped.

Collection and evaluation differ only in their mixer, so both use this.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from experiments.console.progress import Display
from experiments.pipeline.build import RunContext
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout.driver import Progress, Request
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.resume import RollOut, backend, finished, resume
from swe_gym_env.rollout.store import RoundFolder


def play(
    folder: RoundFolder,
    requests: Sequence[Request],
    context: RunContext,
    *,
    display: Display,
    title: str,
    student: Policy,
    mixer: Mixer,
    teacher: Policy | None = None,
    annotate: bool = False,
) -> None:
    """Play the episodes of ``requests`` that ``folder`` lacks. Those that an infrastructure error
    ended are played again at the next start."""
    with display.phase(title, len(requests), len(finished(folder, requests))) as advance:

        def show(now: Progress) -> None:
            advance.to(now.done, note=f"{now.resolved} resolved, {now.turns} turns")

        resume(
            folder,
            requests,
            _roll_out(context.cfg.cluster),
            progress=show,
            what=title,
            make_env=context.make_env,
            student=student,
            teacher=teacher,
            mixer=mixer,
            annotate=annotate,
            concurrency=context.cfg.workers.concurrency,
            max_faults=context.cfg.workers.max_faults,
            history=context.cfg.history,
        )


def _roll_out(cluster: DictConfig) -> RollOut:
    """In this process, or on the machines of a cluster."""
    if cluster.name != "ray":
        return backend(cluster.name)
    options = {name: cluster[name] for name in ("address", "cpus", "memory_gb", "retries")}
    return backend("ray", Cluster(**options))
