"""Who says ``finish``, and was anything changed by then?

An edit that missed leaves the files as they were, and to finish there is to give up. A student that
learns the labels of a teacher who does so as well learns to give up. For each turn, the states in
which nothing differs from the task's start and those in which something does: in how many does the
teacher (its label, or the turn it executed) finish, in how many the student?
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from experiments.analysis.agreement import labelled
from experiments.analysis.intervals import share
from experiments.analysis.stored import EpisodeSet, Measure, NotMeasured, Row, StoredRun
from experiments.tables import Table
from swe_gym_env.types import Episode, ToolCall


def changed(episode: Episode) -> list[bool]:
    """Before each turn. Raises NotMeasured where nobody looked."""
    if episode.turns and all(turn.patch is None for turn in episode.turns):
        raise NotMeasured("the episodes do not hold what was changed after each turn")
    found, now = [], False
    for turn in episode.turns:
        found.append(now)
        now = now if turn.patch is None else bool(turn.patch)
    return found


def said(played: EpisodeSet) -> Iterator[tuple[Episode, str, int, ToolCall | None]]:
    """(episode, who, turn, call) of every executed turn, and of every label that was not."""
    for episode in played.episodes:
        for index, turn in enumerate(episode.turns):
            yield episode, turn.executor, index, turn.action
    for episode, label in labelled(played):
        yield episode, "teacher", label.turn, label.action


def by_turn(run: StoredRun) -> Iterable[Row]:
    for played in run.sets:
        states = {episode.episode_id: changed(episode) for episode in played.episodes}
        counts: dict[tuple[str, int, bool], list[bool]] = defaultdict(list)
        for episode, who, turn, call in said(played):
            key = who, turn, states[episode.episode_id][turn]
            counts[key].append(call is not None and call.name == "finish")
        for (who, turn, differs), ends in sorted(counts.items()):
            yield (played.name, who, turn, differs, len(ends), *share(sum(ends), len(ends)))


BY_TURN = Measure(
    Table(
        "finish_by_turn",
        "Who finishes, and had anything been changed by then?",
        ("set", "who", "turn", "changed", "states", "finish", "low", "high"),
        (),
        "States before a turn; changed: the files differ from the task's start. Of the teacher its "
        "labels and the turns it executed. Wilson intervals.",
        ("finish", "low", "high"),
    ),
    by_turn,
)
