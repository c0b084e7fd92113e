"""How far the states that the student visits are from those that the teacher visits.

The state at turn t is what was executed before it: sandboxes answer the same to the same commands.
Two histories are as far apart as their words differ: 1 - 2 M / T with M words in matching runs and
T words in both (Ratcliff and Obershelp, ``difflib``), 0 for the same and 1 for nothing in common. A
student's state counts with its distance to the nearest state of any of the teacher's episodes.

The teacher seldom played the very task, so it is measured twice: on the same task in the words that
were executed, and over all tasks in their *shape*: names of files, numbers and quoted text are
blanked, and of each answer is kept whether it was an error, a failing test, nothing, or any other
output. So a command that the teacher gives too, but that missed, leads to another state. Only
states after a turn of the student count: the others are the teacher's own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.results.statistics import clustered_share, ratio
from experiments.results.tables import Curve, Table
from experiments.runs.reader import StoredRun
from swe_gym_env import prompts
from swe_gym_env.types import Episode, Turn

Words = tuple[str, ...]
END = "\n"  # stands between two turns

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"\d+")
ANSWERS = (
    ("mistake", re.compile(rf"^{re.escape(prompts.NOT_RUN)}|^\((?:not run|no tool)")),
    ("error", re.compile(r"^Traceback |\(exit code \d+\)$|\(killed: ", re.MULTILINE)),
    ("failing", re.compile(r"\b\d+ (?:failed|errors?)\b")),
    ("nothing", re.compile(r"^\(no output\)$")),
)
_PATH = re.compile(r"[\w.@-]*[/.][\w./@-]*\w|\w+\.\w+")


def words_of(turn: Turn) -> Words:
    """What was executed, word by word; a malformed turn is its text."""
    if turn.action is None:
        return ("(malformed)", *turn.text.split())
    arguments = sorted(turn.action.arguments.items())
    return (turn.action.name, *(word for _, value in arguments for word in value.split()))


def shape_of(turn: Turn) -> Words:
    """As :func:`words_of` with quoted text, paths and numbers blanked; a malformed turn is one."""
    if turn.action is None:
        return ("(malformed)",)
    values = " ".join(value for _, value in sorted(turn.action.arguments.items()))
    for pattern, blank in ((_QUOTED, "Q"), (_PATH, "P"), (_NUMBER, "N")):
        values = pattern.sub(blank, values)
    return (turn.action.name, *values.split())


def answer_of(observation: str) -> str:
    """What kind of answer a command got."""
    return next((name for name, pattern in ANSWERS if pattern.search(observation)), "output")


def histories(episode: Episode) -> list[Words]:
    """The state at each turn: all words that were executed before it."""
    return _states([(*words_of(turn), END) for turn in episode.turns])


def shapes(episode: Episode) -> list[Words]:
    """The same in shapes, each with the kind of answer that it got."""
    answers = [answer_of(turn.observation) for turn in episode.turns[1:]]
    pairs = zip(episode.turns, answers, strict=False)
    return _states([*((*shape_of(turn), answer, END) for turn, answer in pairs), ()])


def _states(steps: Sequence[Words]) -> list[Words]:
    return [tuple(word for step in steps[:turn] for word in step) for turn in range(len(steps))]


@lru_cache(maxsize=200_000)
def distance(one: Words, other: Words) -> float:
    return 1 - SequenceMatcher(None, one, other, autojunk=False).ratio()


def nearest(state: Words, others: Collection[Words]) -> float:
    """The least distance to any of ``others``."""
    if state in others:
        return 0.0
    best = 1.0
    for other in sorted(others, key=lambda o: abs(len(o) - len(state))):
        total = len(state) + len(other)
        if total and 1 - 2 * min(len(state), len(other)) / total >= best:
            continue  # its length alone puts it no nearer
        best = min(best, distance(state, other))
    return best


@dataclass(frozen=True)
class TeacherStates:
    """Of episodes that the teacher played alone: by task in words, and all in shapes."""

    by_task: dict[str, set[Words]]
    shapes: set[Words]

    @classmethod
    def of(cls, episodes: Iterable[Episode]) -> TeacherStates:
        by_task: dict[str, set[Words]] = defaultdict(set)
        every: set[Words] = set()
        for episode in episodes:
            by_task[episode.instance_id].update(histories(episode))
            every.update(shapes(episode))
        return cls(dict(by_task), every)


@dataclass(frozen=True)
class Visit:
    """A state that the student's turns led to. ``same_task`` is None where the teacher did not play
    the task."""

    episode: str
    turn: int
    same_task: float | None
    shape: float
    new: bool


def visits(episodes: Sequence[Episode], teacher: TeacherStates) -> Iterator[Visit]:
    for episode in episodes:
        led = [turn.actor == "student" for turn in episode.turns]
        there = teacher.by_task.get(episode.instance_id)
        states = zip(histories(episode), shapes(episode), strict=True)
        for turn, (words, shape) in enumerate(states):
            if any(led[:turn]):
                near = nearest(words, there) if there else None
                far = nearest(shape, teacher.shapes)
                yield Visit(episode.episode_id, turn, near, far, shape not in teacher.shapes)


def _distances(run: StoredRun) -> Iterator[tuple[str, int | None, list[Visit]]]:
    """Raises NotMeasured where the teacher played no episode alone."""
    if not run.demonstrations:
        raise NotMeasured("the teacher played no whole episode in iteration 0")
    teacher = TeacherStates.of(run.demonstrations)
    for played in run.sets:
        if found := list(visits(played.valid, teacher)):
            yield played.name, played.round, found


def _cells(found: Sequence[Visit]) -> Row:
    names = sorted({visit.episode for visit in found})
    own = [[visit for visit in found if visit.episode == name] for name in names]
    near = [[v.same_task for v in visits if v.same_task is not None] for visits in own]
    new = [sum(v.new for v in visits) for visits in own]
    counts = [len(visits) for visits in own]
    same = ratio([sum(values) for values in near], [len(values) for values in near])
    far = ratio([sum(v.shape for v in visits) for visits in own], counts)
    unseen = clustered_share(new, counts)
    return (len(names), len(found), *unseen, *far, sum(map(len, near)), *same)


def by_turn(run: StoredRun) -> Iterable[Row]:
    for name, _, found in _distances(run):
        for turn in sorted({visit.turn for visit in found}):
            yield (name, turn, *_cells([visit for visit in found if visit.turn == turn]))


def by_set(run: StoredRun) -> Iterable[Row]:
    for name, number, found in _distances(run):
        yield (name, number, *_cells(found))


COLUMNS = (
    *("episodes", "states", "unseen", "unseen_low", "unseen_high"),
    *("distance", "distance_low", "distance_high"),
    *("same_task_states", "same_task_distance", "same_task_low", "same_task_high"),
)
NOTE = (
    "States after a turn of the student. unseen: no episode of the teacher in iteration 0 has a "
    "history of this shape. distance: to the nearest such history, 0 (the same) to 1; same_task: "
    "in the words executed, among the teacher's episodes on the same task, where there are any."
)
UNSEEN = ("unseen", "unseen_low", "unseen_high")

BY_TURN = Measure(
    Table(
        "visited_by_turn",
        "Distance of the student's states from the teacher's, by turn",
        ("set", "turn", *COLUMNS),
        (),
        f"{NOTE} Turn 0 is the first. Intervals: bootstrap over episodes.",
        UNSEEN,
        Curve("turn", "distance", "series", "distance_low", "distance_high"),
    ),
    by_turn,
)
BY_SET = Measure(
    Table(
        "visited_by_set",
        "Distance of the student's states from the teacher's",
        ("set", "round", *COLUMNS),
        (),
        f"{NOTE} Intervals: bootstrap over episodes.",
        UNSEEN,
    ),
    by_set,
)
