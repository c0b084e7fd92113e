"""How far the student's choices are from the teacher's, in whose states.

The exact KL per token, at temperature 1, at every token of the executed turns, by the checkpoint
that played them (``algorithms/engine/divergence.py``). In the student's states (after a turn that
it took) and in the teacher's (only the teacher acted before) the same student is asked the same
question; what it is further off in its own is the covariate shift. The first turn of an episode is
everyone's and counts as neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.console.progress import Display
from experiments.pipeline.build import RunContext
from experiments.pipeline.student import Student
from experiments.probes.stored import completed, drawn
from experiments.results.statistics import difference, ratio
from experiments.results.tables import Curve, Table
from experiments.runs.folders import RunFolder
from experiments.runs.layout import home_of
from experiments.runs.naming import digest
from experiments.runs.reader import EpisodeSet, StoredRun
from swe_gym_env.disk import read_json, write_json
from swe_gym_env.types import Episode

OWN, TEACHERS, FIRST = "student's", "teacher's", "first turn"


@dataclass(frozen=True)
class Measured:
    """One turn of an episode: sums over its tokens, in nats."""

    set: str
    round: int | None
    student: str
    states: str
    episode: str
    turn: int
    tokens: int
    reverse: float
    forward: float
    sampled: float


@dataclass(frozen=True)
class Work:
    """Episodes that ``checkpoint``, which tables call ``student``, is to be asked about. ``mine``:
    the run's own episodes; else the teacher's, given apart."""

    played: EpisodeSet
    student: str
    checkpoint: Path
    mine: bool = True


def work(run: StoredRun, start: Path) -> list[Work]:
    """Rounds by the student that played them, evaluations by the one they measure, and the given
    episodes of the teacher by every evaluated student. Those whose checkpoint is gone are left
    out; raises NotMeasured where that is all of them. ``start`` is the untrained student."""
    kept = {one.round: one.folder.checkpoint for one in run.collected}
    found = []
    for played in run.collected:
        if played.round:
            staleness = int(played.metrics.get("staleness", 0))
            before = played.round - 1 - staleness
            found.append(Work(played, _after(before), kept.get(before, Path())))
    for played in run.evaluations:
        if played.name == "untrained":
            found.append(Work(played, "untrained", start))
        elif played.round is not None:
            found.append(Work(played, _after(played.round), kept.get(played.round, Path())))
    shown = [
        Work(one.played, one.student, one.checkpoint, mine=False)
        for one in found
        if run.demonstrated and one.played in run.evaluations
    ]
    found = [one for one in (*found, *shown) if (one.checkpoint / "config.json").is_file()]
    if not found:
        raise NotMeasured("no checkpoint of its student is there any more")
    return found


def _after(round: int) -> str:
    return f"after round {round}" if round else "after iteration 0"


def states_before(episode: Episode, turn: int, mine: bool) -> str:
    """Whose states: who acted before ``turn``. Not ``mine``: all turns are the teacher's, though
    in an evaluation of it they count as the student's."""
    if turn == 0:
        return FIRST
    own = mine and any(t.actor == "student" for t in episode.turns[:turn])
    return OWN if own else TEACHERS


def measure(
    run: StoredRun, teacher: Path, dtype: str, limit: int | None, display: Display
) -> list[Measured]:
    """Kept episode by episode under analysis/divergence/: a killed one goes on. ``limit``: episodes
    of each set, drawn by the run's seed. Raises NotMeasured."""
    student = RunContext(completed(run.cfg)).student
    models = _Models(teacher, dtype, student)
    found: list[Measured] = []
    for one in work(run, student.start):
        found += _of_work(run, one, [str(teacher), dtype], limit, models, display)
    return found


class _Models:
    """The teacher, and one student after another; loaded when something is asked of them."""

    def __init__(self, teacher: Path, dtype: str, student: Student) -> None:
        """``student`` has the tokenizer of all checkpoints, and says with how many threads to
        compute."""
        self._teacher, self._dtype, self._student = teacher, dtype, student
        self._loaded: dict[Path, Any] = {}

    def ask(self, student: Path, episode: Episode) -> list[Any]:
        from algorithms.engine.divergence import divergences

        wanted = (student, self._teacher)
        for folder in self._loaded.keys() - set(wanted):
            del self._loaded[folder]
        for folder in wanted:
            if folder not in self._loaded:
                self._loaded[folder] = self._load(folder)
        models = [self._loaded[folder] for folder in wanted]
        return divergences(models[0], models[1], episode, self._student.renderer)

    def _load(self, folder: Path) -> Any:
        import torch

        from algorithms.engine.checkpoint import load_model
        from algorithms.engine.scorer import check_tokens

        check_tokens(folder, self._student.renderer.tokenizer)
        _ = self._student.dtype  # sets the threads
        return load_model(folder, getattr(torch, self._dtype)).eval()


def _of_work(
    run: StoredRun,
    one: Work,
    asked: list[str],
    limit: int | None,
    models: _Models,
    display: Display,
) -> list[Measured]:
    episodes = drawn(one.played.valid if one.mine else run.demonstrated, run.seed or 0, limit)
    name = one.played.name if one.mine else f"teacher's episodes, asked {one.student}"
    key = digest([*asked, str(one.checkpoint.resolve()), one.mine])
    own = home_of(one.played.folder.path, run.folder)  # iteration 0's is asked once for the runs
    kept = RunFolder(own).analysis / "divergence" / f"{name.replace(' ', '_')}-{key}.json"
    there: dict[str, Any] = read_json(kept) or {}
    todo = [episode for episode in episodes if episode.episode_id not in there]
    title = f"{run.name}: KL, {name}"
    with display.phase(title, len(episodes), len(episodes) - len(todo)) as advance:
        for episode in todo:
            there[episode.episode_id] = [
                {**asdict(turn), "states": states_before(episode, turn.turn, one.mine)}
                for turn in models.ask(one.checkpoint, episode)
                if turn.tokens
            ]
            write_json(kept, there)
            advance(1)
    head: dict[str, Any] = {"set": name, "round": one.played.round, "student": one.student}
    return [
        Measured(**head, episode=episode.episode_id, **turn)
        for episode in episodes
        for turn in there[episode.episode_id]
    ]


def _kl(turns: Iterable[Measured]) -> Row:
    """Per token: episodes, tokens, and each kind with its interval over episodes."""
    own: dict[str, list[Measured]] = defaultdict(list)
    for turn in turns:
        own[turn.episode].append(turn)
    counts = [sum(turn.tokens for turn in many) for many in own.values()]
    kinds = [
        ratio([sum(getattr(turn, kind) for turn in many) for many in own.values()], counts)
        for kind in ("reverse", "forward", "sampled")
    ]
    return (len(own), sum(counts), *(cell for kind in kinds for cell in kind))


def _groups(turns: Sequence[Measured], *names: str) -> dict[tuple[Any, ...], list[Measured]]:
    found: dict[tuple[Any, ...], list[Measured]] = defaultdict(list)
    for turn in turns:
        found[tuple(getattr(turn, name) for name in names)].append(turn)
    return found


def by_turn(turns: Sequence[Measured]) -> Iterable[Row]:
    for key, group in _groups(turns, "set", "student", "states", "turn").items():
        yield (*key, *_kl(group))


def by_set(turns: Sequence[Measured]) -> Iterable[Row]:
    for key, group in _groups(turns, "set", "round", "student", "states").items():
        yield (*key, *_kl(group))
    for key, group in _groups(turns, "set", "round", "student").items():
        yield (*key, "all", *_kl(group))


def shift(turns: Sequence[Measured]) -> Iterable[Row]:
    """Of each student that was asked in states of both kinds: on training tasks and on held-out
    ones apart; where neither has both kinds, over both, and so of unlike tasks."""
    found: list[Row] = []
    for (student,), group in _groups(turns, "student").items():
        context = {
            "training": [turn for turn in group if turn.set.startswith("round")],
            "held-out": [turn for turn in group if not turn.set.startswith("round")],
        }
        rows = [(student, tasks, *_gap(part)) for tasks, part in context.items() if _both(part)]
        if not rows and _both(group):
            rows = [(student, "unlike", *_gap(group))]
        found += rows
    if not found:
        raise NotMeasured("no student was asked both in its own states and in the teacher's")
    return found


def _both(turns: Sequence[Measured]) -> bool:
    return {OWN, TEACHERS} <= {turn.states for turn in turns}


def _gap(turns: Sequence[Measured]) -> Row:
    """Episodes and nats per token in either kind of states, and the difference."""
    kinds = []
    for states in (TEACHERS, OWN):
        episodes = _groups([turn for turn in turns if turn.states == states], "set", "episode")
        kinds.append(
            [(sum(t.reverse for t in e), sum(t.tokens for t in e)) for e in episodes.values()]
        )
    means = [sum(s for s, _ in kind) / sum(n for _, n in kind) for kind in kinds]
    return (*map(len, kinds), *means, *difference(*kinds))


KL = (
    *("episodes", "tokens", "reverse", "reverse_low", "reverse_high"),
    *("forward", "forward_low", "forward_high", "sampled", "sampled_low", "sampled_high"),
)
NOTE = (
    "Nats per token at temperature 1. reverse: exact KL(student || teacher); forward: exact "
    "KL(teacher || student); sampled: log p_student - log p_teacher of the executed token. "
    "Intervals: bootstrap over episodes."
)
LINE = Curve("turn", "reverse", "series", "reverse_low", "reverse_high")


def measures(turns: Mapping[str, Sequence[Measured]], why: Mapping[str, str]) -> list[Measure]:
    """``turns`` by the label of the run; ``why`` says for the others what they lack."""

    def of(rows: Callable[[Sequence[Measured]], Iterable[Row]]) -> Callable[[StoredRun], Any]:
        def found(run: StoredRun) -> Iterable[Row]:
            if run.name in why:
                raise NotMeasured(why[run.name])
            return rows(turns[run.name])

        return found

    turn = ("set", "student", "states", "turn", *KL)
    table = "Divergence of the student from the teacher"
    gap = (
        *("student", "tasks", "teacher_state_episodes", "student_state_episodes"),
        *("in_teacher_states", "in_student_states", "shift", "low", "high"),
    )
    sets = ("set", "round", "student", "states", *KL)
    turned = Table("divergence_by_turn", f"{table}, by turn", turn, (), NOTE, (), LINE)
    return [
        Measure(turned, of(by_turn)),
        Measure(Table("divergence_by_set", table, sets, (), NOTE), of(by_set)),
        Measure(
            Table(
                "covariate_shift",
                "How much further from the teacher the student is in its own states",
                gap,
                (),
                "Exact KL(student || teacher), nats per token, after the first turn. tasks: both "
                "kinds of states are of training or of held-out tasks; unlike: one is of "
                "each. shift: the difference, with the bootstrap interval over episodes of both.",
            ),
            of(shift),
        ),
    ]
