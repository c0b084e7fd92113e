"""Plays episodes into a folder, and goes on where an earlier start was stopped.

Collection and evaluation are the same thing with another mixer, so both come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from omegaconf import DictConfig

from experiments.console.progress import Display
from experiments.pipeline.build import Parts
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout.driver import Progress, Request, rollout
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.store import RoundFolder


def play(
    folder: RoundFolder,
    requests: Sequence[Request],
    parts: Parts,
    *,
    display: Display,
    title: str,
    student: Policy,
    mixer: Mixer,
    teacher: Policy | None = None,
    annotate: bool = False,
) -> None:
    """Episodes that the machinery spoilt are played again at the next start."""
    done = {episode.episode_id for episode in folder.episodes() if not episode.outcome.mask}
    missing = [request for request in requests if request.episode_id not in done]
    before = len(requests) - len(missing)
    with display.phase(title, len(requests), before) as advance:

        def show(now: Progress) -> None:
            advance.to(before + now.done, note=f"{now.resolved} resolved, {now.turns} turns")

        _rollout(parts.cfg.cluster)(
            missing,
            make_env=parts.make_env,
            student=student,
            teacher=teacher,
            mixer=mixer,
            annotate=annotate,
            on_episode=folder.append,
            concurrency=parts.cfg.workers.concurrency,
            max_faults=parts.cfg.workers.max_faults,
            history=parts.cfg.history,
            progress=show,
        )
    failed = [episode.outcome for episode in folder.episodes() if episode.outcome.mask]
    if len(failed) == len(requests):
        raise SetupError(
            f"{title}: all {len(failed)} episodes failed for reasons outside the agent, the last "
            f"with: {failed[-1].reason[:500].strip()}\nMend that and give the same command again."
        )


def _rollout(cluster: DictConfig) -> Callable[..., Progress]:
    """In this process, or on the machines of a cluster: the same episodes."""
    if cluster.name == "local":
        return rollout
    if cluster.name != "ray":
        raise SetupError(f"cluster.name={cluster.name}: it is local or ray")
    try:
        from swe_gym_env.rollout.ray import driver
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise SetupError("cluster=ray: Ray is not installed: pip install -e '.[ray]'") from None
    own = {name: cluster[name] for name in ("address", "cpus", "memory_gb", "retries")}
    return partial(driver.rollout, cluster=driver.Cluster(**own))
