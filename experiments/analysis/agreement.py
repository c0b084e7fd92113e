"""Does the student do what the teacher would have done, in the states that it reaches itself?

Of the turns that the student executed and the teacher labeled: the share where label and turn are
the same text, and where they are the same call (tool and arguments, blanks at the ends apart,
whatever text stands around it). A malformed turn is no call, so it agrees with none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.results.statistics import clustered_share, share
from experiments.results.tables import Curve, Table
from experiments.runs.reader import EpisodeSet, StoredRun
from swe_gym_env.types import Annotation, Episode, ToolCall


class Compared(NamedTuple):
    """A turn of the student beside its label."""

    episode: str
    turn: int
    text: bool
    call: bool


def same_call(one: ToolCall | None, other: ToolCall | None) -> bool:
    return one is not None and other is not None and _canonical(one) == _canonical(other)


def _canonical(call: ToolCall) -> tuple[str, dict[str, str]]:
    return call.name, {key: value.strip() for key, value in call.arguments.items()}


def labeled(played: EpisodeSet) -> Iterator[tuple[Episode, Annotation]]:
    """Every label of a turn that the student executed, with its episode."""
    episodes = {episode.episode_id: episode for episode in played.valid}
    for label in played.annotations:
        episode = episodes.get(label.episode_id)
        if episode is None or label.text is None or label.turn >= len(episode.turns):
            continue
        if episode.turns[label.turn].actor == "student":
            yield episode, label


def compared(played: EpisodeSet) -> dict[str, list[Compared]]:
    """By annotator: each labeled turn of the student."""
    found: dict[str, list[Compared]] = defaultdict(list)
    for episode, label in labeled(played):
        turn = episode.turns[label.turn]
        text = turn.text.strip() == (label.text or "").strip()
        call = same_call(turn.action, label.action)
        found[label.annotator].append(Compared(episode.episode_id, label.turn, text, call))
    return found


def _sets(run: StoredRun) -> Iterator[tuple[EpisodeSet, str, list[Compared]]]:
    """Raises NotMeasured where no round holds a labeled turn of the student."""
    found = [(one, by, pairs) for one in run.collected for by, pairs in compared(one).items()]
    if not found:
        raise NotMeasured("no turn of the student has a teacher's label beside it")
    yield from found


def by_turn(run: StoredRun) -> Iterable[Row]:
    for played, annotator, pairs in _sets(run):
        for turn in sorted({pair.turn for pair in pairs}):
            here = [pair for pair in pairs if pair.turn == turn]
            text = share(sum(pair.text for pair in here), len(here))
            call = share(sum(pair.call for pair in here), len(here))
            yield (played.name, annotator, turn, len(here), *text, *call)


def by_round(run: StoredRun) -> Iterable[Row]:
    for played, annotator, pairs in _sets(run):
        own: dict[str, list[Compared]] = defaultdict(list)
        for pair in pairs:
            own[pair.episode].append(pair)
        counts = [len(many) for many in own.values()]
        text = clustered_share([sum(p.text for p in many) for many in own.values()], counts)
        call = clustered_share([sum(p.call for p in many) for many in own.values()], counts)
        yield (played.round, annotator, len(own), len(pairs), *text, *call)


TEXT = ("same_text", "text_low", "text_high")
CALL = ("same_call", "call_low", "call_high")

BY_TURN = Measure(
    Table(
        "agreement_by_turn",
        "Agreement of the student's turn and the teacher's label, by turn",
        ("set", "annotator", "turn", "turns", *TEXT, *CALL),
        (),
        "Turns that the student executed and the teacher labeled; turn 0 is the first. "
        "Wilson intervals.",
        (*TEXT, *CALL),
        Curve("turn", "same_call", "series", "call_low", "call_high", percent=True),
    ),
    by_turn,
)
BY_ROUND = Measure(
    Table(
        "agreement_by_round",
        "Agreement of the student's turn and the teacher's label, by round",
        ("round", "annotator", "episodes", "turns", *TEXT, *CALL),
        (),
        "Turns that the student executed and the teacher labeled. Intervals: bootstrap over "
        "episodes.",
        (*TEXT, *CALL),
        Curve("round", "same_call", "run", "call_low", "call_high", percent=True),
    ),
    by_round,
)
