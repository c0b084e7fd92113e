"""Playing what a folder still lacks: the one place that decides which episodes are played again.

An episode that is stored is not played a second time, except one that ended in an infrastructure
error: it says nothing about the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from swe_gym_env.errors import SetupError
from swe_gym_env.rollout import driver, failures
from swe_gym_env.rollout.driver import OnEpisode, Progress
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.running import Request
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Episode, Outcome

BACKENDS = ("local", "ray")

RollOut = Callable[..., Progress]  # driver.rollout, or another with the same arguments


def backend(name: str, cluster: Cluster | None = None) -> RollOut:
    """The roll-out in this process (``local``), or on the machines of ``cluster`` (``ray``). Both
    play the same episodes.

    Raises:
        SetupError: There is no such back end, or Ray is not installed.
    """
    if name == "local":
        return driver.rollout
    if name != "ray":
        raise SetupError(f"there is no back end {name!r}: it is one of {', '.join(BACKENDS)}")
    try:
        from swe_gym_env.rollout.ray import driver as on_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise SetupError("Ray is not installed: pip install 'swe-gym-env[ray]'") from None
    return partial(on_ray.rollout, cluster=cluster or Cluster())


def finished(episodes: Iterable[Episode], requests: Sequence[Request]) -> list[Episode]:
    """The stored ``episodes`` of ``requests``, without those that have to be played again."""
    wanted = {request.episode_id for request in requests}
    return [
        episode
        for episode in episodes
        if episode.episode_id in wanted and episode.outcome.status != failures.INFRA
    ]


def resume(
    folder: RoundFolder | None,
    requests: Sequence[Request],
    roll_out: RollOut,
    *,
    stored: Sequence[Episode] | None = None,
    on_episode: OnEpisode = lambda episode, labels: None,
    progress: Callable[[Progress], None] = lambda _: None,
    what: str = "roll-out",
    **options: object,
) -> None:
    """Play the requests that have no finished episode in ``folder``, and append each there.

    Args:
        folder: Where episodes and labels are kept, and where earlier ones are looked for. None
            keeps nothing and plays all.
        requests: All episodes that are wanted; those that are there are skipped.
        roll_out: Plays them, see :func:`backend`.
        stored: What :func:`finished` found in ``folder``, if the caller has read that already.
        on_episode: Called for each new episode once it is on disk.
        progress: Called with sums that include the earlier episodes.
        what: Names this roll-out in an error.
        **options: All other arguments of ``roll_out``.

    Raises:
        SetupError: Infrastructure errors ended every episode.
    """
    if stored is None:
        stored = finished(folder.episodes(), requests) if folder else []
    done = {episode.episode_id for episode in stored}
    missing = [request for request in requests if request.episode_id not in done]
    outcomes: list[Outcome] = []

    def record(episode: Episode, labels: list[Annotation]) -> None:
        if folder:
            folder.append(episode, labels)
        outcomes.append(episode.outcome)
        on_episode(episode, labels)

    before = Progress(
        total=len(requests),
        done=len(stored),
        resolved=sum(episode.outcome.resolved for episode in stored),
        turns=sum(len(episode.turns) for episode in stored),
    )
    progress(before)
    roll_out(
        missing,
        on_episode=record,
        progress=lambda now: progress(before.plus(now)),
        **options,
    )
    if outcomes and not stored and all(one.status == failures.INFRA for one in outcomes):
        raise SetupError(
            f"{what}: all {len(outcomes)} episodes failed for reasons outside the agent, the last "
            f"with: {outcomes[-1].reason[:500].strip()}\nFix that and give the same command again."
        )
