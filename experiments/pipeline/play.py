"""Plays episodes into a folder, and goes on where an earlier start was stopped.

Collection and evaluation differ only in their mixer, so both use this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from experiments.console.progress import Display
from experiments.pipeline.environments import EnvFactory
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout.driver import Progress, Request
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.resume import RollOut, backend, finished, resume
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Episode


class Player:
    """How the episodes of a run are played, those of the student as those of the teacher.

    Args:
        make_env: Makes the environment of an episode; it is copied to the machines of a cluster.
        cluster: The section of that name.
        workers: The section of that name.
        fixed_batches: Whether the turns of all episodes are asked for together.
        history: How many observations student and teacher see, the newest; None: all.
    """

    def __init__(
        self,
        make_env: EnvFactory,
        *,
        cluster: DictConfig,
        workers: DictConfig,
        fixed_batches: bool,
        history: int | None,
    ) -> None:
        self._make_env, self._cluster = make_env, cluster
        self._workers, self._history = workers, history
        self._fixed_batches = fixed_batches

    def play(
        self,
        folder: RoundFolder,
        requests: Sequence[Request],
        *,
        display: Display,
        title: str,
        student: Policy,
        mixer: Mixer,
        teacher: Policy | None = None,
        annotate: bool = False,
        learned: Callable[[Episode], bool] = lambda _: True,
    ) -> None:
        """Play the episodes of ``requests`` that ``folder`` lacks. Those that an infrastructure
        error ended are played again at the next start."""
        workers, options = self._workers, {}
        if self._cluster.name == "local":
            options["commands"] = workers.commands
        stored = finished(folder.episodes(), requests)
        with display.phase(title, len(requests), len(stored)) as advance:

            def show(now: Progress) -> None:
                advance.to(now.done, note=f"{now.resolved} resolved, {now.turns} turns")

            resume(
                folder,
                requests,
                _roll_out(self._cluster),
                stored=stored,
                progress=show,
                what=title,
                make_env=self._make_env,
                student=student,
                teacher=teacher,
                mixer=mixer,
                annotate=annotate,
                label_at=workers.label_at,
                learned=learned,
                concurrency=workers.concurrency,
                max_faults=workers.max_faults,
                fixed_batches=self._fixed_batches,
                history=self._history,
                **options,
            )


def _roll_out(cluster: DictConfig) -> RollOut:
    """In this process, or on the machines of a cluster."""
    if cluster.name != "ray":
        return backend(cluster.name)
    options = {name: cluster[name] for name in ("address", "cpus", "memory_gb", "retries")}
    return backend("ray", Cluster(**options))
