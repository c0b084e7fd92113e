"""Infrastructure errors as outcomes and episodes: they say nothing about the agent."""

from __future__ import annotations

from typing import Final

from swe_gym_env.rollout.running import Request
from swe_gym_env.types import Episode, Outcome

INFRA: Final = "infra_error"


def outcome(cause: str, message: str) -> Outcome:
    """The masked outcome of an episode that the infrastructure ended."""
    return Outcome(INFRA, mask=True, reason=f"{cause}: {message}")


def cause_of(outcome: Outcome) -> tuple[str, str]:
    """The kind of the error and its message; ("", "") for an outcome that is no such error."""
    cause, _, message = outcome.reason.partition(": ")
    return (cause, message) if outcome.status == INFRA else ("", "")


def unplayed(request: Request, cause: str, message: str) -> Episode:
    """The record of an episode of which nothing came back."""
    return Episode(
        episode_id=request.episode_id,
        instance_id=request.task.instance_id,
        seed=request.seed,
        round=request.round,
        repeat=request.repeat,
        system_prompt="",
        turns=(),
        outcome=outcome(cause, message),
        stop_reason=INFRA,
    )
