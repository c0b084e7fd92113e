"""What the episode reader shows of an episode.

What is needed to list and to filter goes into one small row; the rest of the episode, its body, is
only read when it is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from swe_gym_env.types import Annotation, Episode, Turn

LISTED_TESTS = 200  # per episode, of those that do not pass; the others are counted
PASSING = ("PASSED", "XFAIL", "SKIPPED")


def repository(instance_id: str) -> str:
    """``owner/name`` out of a task's id, as the known data sets build it; what stands before the
    first ``__`` where it is built in no such way."""
    owner, _, rest = instance_id.partition("__")
    name = re.sub(r"(?:-\d+|[-.][0-9a-f]{7,40}(?:\..*)?)$", "", rest)
    if not rest or name == rest:
        return owner
    return name if owner == "pypi" else f"{owner}/{name}"


def same_action(turn: Turn, other: Annotation) -> bool:
    """Whether a label does what the executed turn did; the thoughts before it may differ."""
    if other.executed or other.text == turn.text:
        return True
    if turn.action is None or other.action is None:
        return False
    mine, theirs = turn.action, other.action
    return (mine.name, dict(mine.arguments)) == (theirs.name, dict(theirs.arguments))


def row(episode: Episode, labels: Mapping[tuple[str, int], Sequence[Annotation]]) -> dict[str, Any]:
    """What is listed, filtered and sorted by. ``divergence`` is the first turn in which a label is
    there and does something else, -1 where there is none."""
    apart = [
        number
        for number, turn in enumerate(episode.turns)
        for one in labels.get((episode.episode_id, number), ())
        if one.text is not None and not same_action(turn, one)
    ]
    return {
        "id": episode.episode_id,
        "task": episode.instance_id,
        "repository": repository(episode.instance_id),
        "repeat": episode.repeat,
        "seed": episode.seed,
        "status": episode.outcome.status,
        "stop": episode.stop_reason,
        "turns": len(episode.turns),
        "teacher": sum(turn.actor == "teacher" for turn in episode.turns),
        "divergence": min(apart, default=-1),
        "seconds": round(episode.seconds, 1),
    }


def body(
    episode: Episode, labels: Mapping[tuple[str, int], Sequence[Annotation]]
) -> dict[str, Any]:
    """All else that the page shows of an episode. ``patch`` of a turn is null where it was not
    written down, which is where it stayed as it was, or was not looked at."""
    turns = []
    for number, turn in enumerate(episode.turns):
        beside = labels.get((episode.episode_id, number), ())
        turns.append(
            {
                "seen": turn.observation,
                "who": turn.actor,
                "text": turn.text,
                "valid": turn.action is not None,
                "seconds": round(turn.act_seconds + turn.step_seconds, 2),
                "patch": turn.patch,
                "labels": [_label(turn, one) for one in beside if not one.executed],
            }
        )
    return {
        "system": episode.system_prompt,
        "turns": turns,
        "final": episode.final_observation,
        "patch": episode.patch,
        "why": episode.outcome.reason,
        "tests": _tests(episode.outcome.tests),
    }


def _label(turn: Turn, one: Annotation) -> dict[str, Any]:
    same = same_action(turn, one)
    return {"by": one.annotator, "text": one.text, "error": one.error, "same": same}


def _tests(tests: Mapping[str, str]) -> dict[str, Any]:
    listed = [[name, status] for name, status in sorted(tests.items()) if status not in PASSING]
    counts = dict(Counter(tests.values()).most_common())
    return {"counts": counts, "listed": listed[:LISTED_TESTS], "more": len(listed[LISTED_TESTS:])}
