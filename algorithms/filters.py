"""Which episodes teach: knobs that several methods share. An ``infra_error`` never does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from algorithms.base import Round
from swe_gym_env.types import Episode

Keep = Literal["all", "finished", "resolved"]
Aggregation = Literal["latest", "union", "window"]


def one_of(kind: Any, **options: str) -> None:
    """Refuse a misspelt knob before an hour of roll-outs, not after it."""
    for name, value in options.items():
        if value not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise ValueError(f"algorithm.{name}={value}: it is one of {known}")


def at_least_one(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"algorithm.{name}={value} must be at least 1")


def one_distribution(temperature: float, top_p: float) -> None:
    """A ratio or a gradient on sampled tokens is of the distribution that they were drawn from,
    softmax(logits / temperature) over all tokens. What top-p cuts away has no probability there,
    and greedy tokens have no distribution."""
    if temperature <= 0:
        raise ValueError(f"algorithm.temperature={temperature} must be positive")
    if top_p != 1:
        raise ValueError(
            f"algorithm.top_p={top_p}: this method learns from the log-probs of sampled tokens, so "
            "they must be drawn from all tokens: algorithm.top_p=1"
        )


def check(keep: str, aggregation: str, window: int = 1) -> None:
    one_of(Keep, keep=keep)
    one_of(Aggregation, aggregation=aggregation)
    at_least_one(window=window)


def kept(episode: Episode, keep: Keep) -> bool:
    """``finished``: the agent said so itself, right or wrong."""
    if episode.outcome.mask or not episode.turns:
        return False
    if keep == "finished":
        return episode.stop_reason == "finished"
    return keep == "all" or episode.outcome.resolved


def chosen(
    rounds: Sequence[Round], keep: Keep, aggregation: Aggregation, window: int = 1
) -> Iterator[tuple[Round, Episode]]:
    """The episodes to learn from, each with its round: of the newest round, of all of them, or of
    the newest ``window``."""
    first = {"latest": -1, "union": 0, "window": -window}[aggregation]
    for round in rounds[first:]:
        for episode in round.episodes:
            if kept(episode, keep):
                yield round, episode
