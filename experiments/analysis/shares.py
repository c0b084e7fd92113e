"""Does it help that the teacher acts, and from when on?

kappa, the student's turns before the teacher takes over, is drawn before an episode begins, so the
rates at different kappas are a randomized comparison. It is drawn again from the episode's key
here, as the mixer did it. The share of turns that the teacher took in the end is not randomized: it
depends on how long the episode went on, which depends on how well it went.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.config.algorithms import build_algorithm
from experiments.results.statistics import average, share
from experiments.results.tables import Curve, Table
from experiments.runs.reader import StoredRun
from swe_gym_env.rollout.mixers import SingleSwitch
from swe_gym_env.types import Episode

EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


def by_kappa(run: StoredRun) -> Iterable[Row]:
    found = [(one, _mixer(run, one.round)) for one in run.collected if one.round]
    switched = [(one, mixer) for one, mixer in found if isinstance(mixer, SingleSwitch)]
    if not switched:
        raise NotMeasured("no round in which the teacher takes over at a turn kappa")
    for played, mixer in switched:
        groups: dict[int, list[Episode]] = defaultdict(list)
        for episode in played.valid:
            groups[mixer.kappa(_key(episode))].append(episode)
        for kappa, episodes in sorted(groups.items()):
            resolved = sum(episode.outcome.resolved for episode in episodes)
            reached = sum(len(episode.turns) > kappa for episode in episodes)
            n = len(episodes)
            yield (played.name, kappa, n, reached, resolved, *share(resolved, n))


def _mixer(run: StoredRun, round: int) -> object:
    if "algorithm" not in run.cfg:
        return None
    return build_algorithm(run.cfg.algorithm).collect(round).mixer


def _key(episode: Episode) -> tuple[int, int, str, int, int, str]:
    return (episode.seed, episode.round, episode.instance_id, episode.repeat, 0, "mixer")


def bin_of(taken: float) -> str:
    """0, 1, or the quarter between them that a share lies in; its upper edge belongs to it."""
    if taken in (0.0, 1.0):
        return f"{taken:.0f}"
    for low, high in pairwise(EDGES):
        if taken <= high:
            return f"{low:g} to {high:g}"
    raise ValueError(f"a share lies in [0, 1], not at {taken}")


def by_share(run: StoredRun) -> Iterable[Row]:
    mixed = [one for one in run.collected if one.round]
    if not mixed:
        raise NotMeasured("no round after iteration 0")
    for played in mixed:
        groups: dict[str, list[Episode]] = defaultdict(list)
        for episode in played.valid:
            groups[bin_of(episode.teacher_share)].append(episode)
        for name in sorted(groups, key=lambda name: min(e.teacher_share for e in groups[name])):
            episodes = groups[name]
            resolved = sum(episode.outcome.resolved for episode in episodes)
            middle = average([episode.teacher_share for episode in episodes])
            interval = share(resolved, len(episodes))
            yield (played.name, name, middle, len(episodes), resolved, *interval)


RATE = ("rate", "low", "high")
BY_KAPPA = Measure(
    Table(
        "resolved_by_kappa",
        "Resolve rate by kappa, the student's turns before the teacher takes over",
        ("set", "kappa", "episodes", "reached", "resolved", *RATE),
        (),
        "kappa as it was drawn before each episode; reached: episodes that were still going on at "
        "turn kappa, so that the teacher did act. Wilson intervals.",
        RATE,
        Curve("kappa", "rate", "series", "low", "high", percent=True),
    ),
    by_kappa,
)
BY_SHARE = Measure(
    Table(
        "resolved_by_teacher_share",
        "Resolve rate by the share of turns that the teacher took",
        ("set", "bin", "teacher_share", "episodes", "resolved", *RATE),
        (),
        "teacher_share: the mean in the bin. The share depends on an episode's length and so on "
        "how well it went: no cause can be read from it. Wilson intervals.",
        ("teacher_share", *RATE),
        Curve("teacher_share", "rate", "series", "low", "high", percent=True),
    ),
    by_share,
)
