"""Which episodes teach: knobs that several methods share. An ``infra_error`` never does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from algorithms.base import Round
from swe_gym_env.types import Episode

Keep = Literal["all", "finished", "resolved"]
Aggregation = Literal["latest", "union"]


def check(keep: str, aggregation: str) -> None:
    """Refuse a misspelt knob before an hour of roll-outs, not after it."""
    if keep not in get_args(Keep):
        raise ValueError(f"algorithm.keep={keep}: it is one of {', '.join(get_args(Keep))}")
    if aggregation not in get_args(Aggregation):
        known = ", ".join(get_args(Aggregation))
        raise ValueError(f"algorithm.aggregation={aggregation}: it is one of {known}")


def kept(episode: Episode, keep: Keep) -> bool:
    """``finished``: the agent said so itself, right or wrong."""
    if episode.outcome.mask or not episode.turns:
        return False
    if keep == "finished":
        return episode.stop_reason == "finished"
    return keep == "all" or episode.outcome.resolved


def chosen(
    rounds: Sequence[Round], keep: Keep, aggregation: Aggregation
) -> Iterator[tuple[Round, Episode]]:
    """The episodes to learn from, each with the round that it belongs to."""
    for round in rounds if aggregation == "union" else rounds[-1:]:
        for episode in round.episodes:
            if kept(episode, keep):
                yield round, episode
