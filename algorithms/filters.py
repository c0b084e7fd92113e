"""Which episodes are learned from: options that several methods share.

``keep``: ``all`` episodes, those in which the agent declared that it is ``finished``, or those that
were ``resolved``. Episodes that failed for infrastructure reasons are never learned from.

``aggregation``: the episodes of the ``latest`` round, of all rounds with iteration 0 (``union``),
or of a ``window`` of the newest rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from algorithms.base import Round
from swe_gym_env.types import Episode

Keep = Literal["all", "finished", "resolved"]
Aggregation = Literal["latest", "union", "window"]


def one_of(kind: Any, **options: str) -> None:
    """Refuses a misspelled option before the roll-outs, not after them. Raises ValueError."""
    for name, value in options.items():
        if value not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise ValueError(f"algorithm.{name}={value}: it is one of {known}")


def at_least_one(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"algorithm.{name}={value} must be at least 1")


def one_distribution(temperature: float, top_p: float) -> None:
    """Refuses sampling whose distribution has no gradient. Raises ValueError.

    Ratios and gradients on sampled tokens belong to the distribution from which the tokens were
    drawn: softmax(logits / temperature) over all tokens. With top-p, the tokens that it cuts off
    have no probability, and greedy tokens are not drawn from a distribution.
    """
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
    """Whether to learn from ``episode``. With ``finished`` it may be right or wrong."""
    if episode.outcome.mask or not episode.turns:
        return False
    if keep == "finished":
        return episode.stop_reason == "finished"
    return keep == "all" or episode.outcome.resolved


def chosen(
    rounds: Sequence[Round], keep: Keep, aggregation: Aggregation, window: int = 1
) -> Iterator[tuple[Round, Episode]]:
    """The episodes to learn from, each with its round.

    Args:
        rounds: All rounds so far, beginning with round 0.
        keep: Which episodes of a round to take.
        aggregation: Which rounds to take.
        window: How many of the newest rounds to take with ``aggregation`` ``window``.
    """
    first = {"latest": -1, "union": 0, "window": -window}[aggregation]
    for round in rounds[first:]:
        for episode in round.episodes:
            if kept(episode, keep):
                yield round, episode
