"""Who says ``finish``, and was anything changed by then?

An edit that missed leaves the files as they were, and to finish there is to give up. A student that
learns the labels of a teacher who does so as well learns to give up. For each turn, the states in
which nothing differs from the task's start and those in which something does: in how many does the
teacher (its label, or the turn it executed) finish, in how many the student?

And is a second try of any use? What was resolved, by the turn that made the last change: where all
of it is the turn of the first edit, the student knows no way back, and no label makes it find one.
Some go on after a right edit and break it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from experiments.analysis.agreement import labeled
from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.results.statistics import share
from experiments.results.tables import Table
from experiments.runs.reader import EpisodeSet, StoredRun
from swe_gym_env.patches import parse_patch
from swe_gym_env.types import Episode, TaskInstance, ToolCall


def patches(episode: Episode) -> list[str]:
    """What stands changed before each turn, and at the end. Raises NotMeasured where nobody
    looked."""
    looked = episode.turns[:-1]  # the last one ends in the episode's own patch
    if looked and all(turn.patch is None for turn in looked):
        raise NotMeasured("the episodes do not hold what was changed after each turn")
    found = [""]
    for turn in looked:
        found.append(found[-1] if turn.patch is None else turn.patch)
    return [*found, episode.patch] if episode.turns else found


def last_change(episode: Episode) -> int | None:
    """The turn that made the patch what it is; None where there is none."""
    steps = enumerate(pairwise(patches(episode)))
    return max((turn for turn, (before, after) in steps if before != after), default=None)


def decisions(played: EpisodeSet) -> Iterator[tuple[Episode, str, int, ToolCall | None]]:
    """(episode, who, turn, call) of every executed turn, and of every label that was not."""
    for episode in played.valid:
        for index, turn in enumerate(episode.turns):
            yield episode, turn.actor, index, turn.action
    for episode, label in labeled(played):
        yield episode, "teacher", label.turn, label.action


def by_turn(run: StoredRun) -> Iterable[Row]:
    for played in run.sets:
        states = {episode.episode_id: patches(episode) for episode in played.valid}
        counts: dict[tuple[str, int, bool], list[bool]] = defaultdict(list)
        for episode, who, turn, call in decisions(played):
            key = who, turn, bool(states[episode.episode_id][turn])
            counts[key].append(call is not None and call.name == "finish")
        for (who, turn, differs), ends in sorted(counts.items()):
            yield (played.name, who, turn, differs, len(ends), *share(sum(ends), len(ends)))


def failed(episode: Episode, task: TaskInstance) -> bool:
    """It once had made the very changes of the gold patch, and is not resolved."""
    if episode.outcome.resolved:
        return False
    gold = parse_patch(task.gold_patch)
    return any(parse_patch(patch) == gold for patch in set(patches(episode)) - {""})


def by_last_change(run: StoredRun) -> Iterable[Row]:
    for played in run.sets:
        groups: dict[int | None, list[Episode]] = defaultdict(list)
        for episode in played.valid:
            groups[last_change(episode)].append(episode)
        for turn in sorted(groups, key=lambda turn: -1 if turn is None else turn):
            own = groups[turn]
            resolved = sum(episode.outcome.resolved for episode in own)
            lost = None
            if all(episode.instance_id in run.tasks for episode in own):
                lost = sum(failed(episode, run.tasks[episode.instance_id]) for episode in own)
            yield (played.name, turn, len(own), resolved, lost, *share(resolved, len(own)))


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
BY_LAST_CHANGE = Measure(
    Table(
        "resolved_by_last_change",
        "Resolve rate by the turn that made the last change",
        ("set", "turn", "episodes", "resolved", "regressed_after_fix", "rate", "low", "high"),
        (),
        "Turn 0 is the first; no turn: nothing was ever changed. regressed_after_fix: had made the "
        "changes of the gold patch before, and are not resolved. Wilson intervals.",
        ("rate", "low", "high"),
    ),
    by_last_change,
)
