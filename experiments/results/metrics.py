"""What a set of episodes amounts to, as plain numbers for metrics.json.

Episodes whose outcome is masked (infrastructure faults) are counted, and left out of all the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from experiments.results.statistics import rate
from swe_gym_env.types import Annotation, Episode

_KIND = re.compile(  # in the ``error`` of a label
    r"HTTP \d+|\b\w*(?:Timeout|Error)\b|^format|not a chat completion|no text|budget spent"
)


def of_episodes(episodes: Sequence[Episode]) -> dict[str, Any]:
    valid = [episode for episode in episodes if not episode.outcome.mask]
    turns = [turn for episode in valid for turn in episode.turns]
    resolved = rate(sum(episode.outcome.resolved for episode in valid), len(valid))
    return {
        **asdict(resolved),
        "rate": resolved.rate,
        "stop_reasons": dict(Counter(episode.stop_reason for episode in valid)),
        "outcomes": dict(Counter(episode.outcome.status for episode in valid)),
        "infra_errors": len(episodes) - len(valid),
        "empty_patches": sum(episode.outcome.status == "empty_patch" for episode in valid),
        "turns": len(turns),
        "mean_turns": _mean(len(episode.turns) for episode in valid),
        "format_error_rate": _mean(turn.action is None for turn in turns),
        "teacher_share": _mean(turn.actor == "teacher" for turn in turns),
        "sampled_tokens": sum(len(turn.token_ids) for turn in turns),
        "mean_tokens": _mean(episode.metadata.get("tokens", 0) for episode in valid),
        "mean_seconds": _mean(episode.seconds for episode in valid),
    }


def of_round(episodes: Sequence[Episode], annotations: Iterable[Annotation]) -> dict[str, Any]:
    """As above; and whether the teacher's labels came, and would have been the same turn."""
    labels = {(label.episode_id, label.turn): label for label in annotations}
    own = [
        (turn, labels.get((episode.episode_id, number)))
        for episode in episodes
        for number, turn in enumerate(episode.turns)
        if turn.actor == "student" and not episode.outcome.mask
    ]
    agreed = [turn.text == label.text for turn, label in own if label and label.text is not None]
    return {
        "episodes": len(episodes),
        **of_episodes(episodes),
        "labels": sum(label.text is not None for label in labels.values()),
        "unlabeled": sum(label.text is None for label in labels.values()),
        "teacher_fallbacks": sum(e.metadata.get("teacher_fallbacks", 0) for e in episodes),
        "student_says_the_same": _mean(agreed),
    }


def teacher_share(episodes: Iterable[Episode]) -> float | None:
    """The share of the executed turns that the teacher took; None if there are no turns."""
    taken = [turn.actor == "teacher" for episode in episodes for turn in episode.turns]
    return sum(taken) / len(taken) if taken else None


def teacher_text_share(episodes: Iterable[Episode]) -> float | None:
    """As :func:`teacher_share`, in characters, because not the tokens of all turns are stored."""
    sizes = Counter[str]()
    for turn in (turn for episode in episodes for turn in episode.turns):
        sizes[turn.actor] += len(turn.text)
    return sizes["teacher"] / sizes.total() if sizes.total() else None


def agreement(
    episodes: Iterable[Episode], annotations: Iterable[Annotation]
) -> tuple[int, float | None]:
    """The number of labels of turns that the teacher did not execute, and the share of them that
    are the executed turn, word for word."""
    own = {(e.episode_id, k): turn.text for e in episodes for k, turn in enumerate(e.turns)}
    beside = {
        (a.episode_id, a.turn): a.text
        for a in annotations
        if a.text is not None and not a.executed and (a.episode_id, a.turn) in own
    }
    if not beside:
        return 0, None
    return len(beside), sum(own[key] == text for key, text in beside.items()) / len(beside)


def submission_rate(episodes: Sequence[Episode]) -> float | None:
    """The share of episodes that the agent ended itself, by ``finish``; None if there are none."""
    return sum(e.stop_reason == "finished" for e in episodes) / len(episodes) if episodes else None


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Each count as a share of their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def why_unlabeled(annotations: Iterable[Annotation]) -> dict[str, int]:
    """How many states the teacher left without a label, by kind of fault, the most common first."""
    kinds = (_KIND.search(label.error) for label in annotations if label.text is None)
    return dict(Counter(kind[0] if kind else "other" for kind in kinds).most_common())


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return fmean(listed) if listed else 0.0
