"""Does the student recover from a mistake? One is injected at turn t, and it goes on alone.

Every task is played twice: with the mistake and, up to there the same, without. Of the tasks in
which the mistake was made, the resolve rates with and without it are compared in pairs. The rate of
recovery is the share of those resolved without it that are resolved with it, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.console.progress import Display
from experiments.pipeline.build import RunContext
from experiments.pipeline.play import Player
from experiments.pipeline.student import Student
from experiments.pipeline.teachers import Teacher
from experiments.probes.injected import MISTAKES, HandOver, WithMistake, place
from experiments.probes.stored import completed, drawn
from experiments.results.statistics import mcnemar, mean, share
from experiments.results.tables import Curve, Table
from experiments.runs.folders import RunFolder
from experiments.runs.layout import UNTRAINED, home_of
from experiments.runs.naming import digest
from experiments.runs.reader import StoredRun
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Actor, Episode, TaskInstance

LEADS = ("student", "teacher", "expert")


@dataclass(frozen=True)
class Plan:
    """``turns``: at which a mistake is injected, one at a time. ``lead`` plays the turns before it.
    ``checkpoints``: names of the run's evaluations, "last", or folders. ``limit``: of tasks."""

    turns: Sequence[int]
    mistake: str
    lead: str
    checkpoints: Sequence[str]
    limit: int | None

    def __post_init__(self) -> None:
        if self.lead not in LEADS or self.mistake not in MISTAKES or min(self.turns) < 0:
            raise SetupError(f"a mistake is one of {sorted(MISTAKES)}, a lead one of {LEADS}")


@dataclass(frozen=True)
class Pair:
    """One task, with the mistake and without."""

    student: str
    turn: int
    task: str
    injected: bool
    control: bool


def checkpoint(run: StoredRun, name: str) -> Path | None:
    """None is the untrained student. Raises NotMeasured where it is not there."""
    if name == UNTRAINED:
        return None
    rounds = [one.folder.checkpoint for one in run.collected]
    there = [folder for folder in rounds if (folder / "config.json").is_file()]
    if name == "last" and there:
        return there[-1]
    for folder in (run.checkpoint(name), Path(name)):
        if folder and (folder / "config.json").is_file():
            return folder
    raise NotMeasured(f"there is no checkpoint {name}")


def measure(run: StoredRun, plan: Plan, display: Display) -> list[Pair]:
    """Plays what is missing, into analysis/recovery/ of the run that the checkpoint belongs to, so
    that runs share what they share. Raises NotMeasured, SetupError."""
    from experiments.pipeline import preflight

    tasks = held_out(run, plan.limit)
    cfg = completed(run.cfg)
    preflight.check(cfg, trains=False)
    pairs: list[Pair] = []
    with contextlib.closing(RunContext(cfg)) as context:
        for name in plan.checkpoints:
            folder = checkpoint(run, name)
            own = run.folder if folder is None else home_of(folder, run.folder)
            with RunFolder(own).lock():
                pairs += _of_student(
                    plan,
                    [Request(task, cfg.seed) for task in tasks],
                    folder,
                    own,
                    student=context.student,
                    lead=_lead(plan.lead, context.teacher),
                    player=context.player,
                    decided=(cfg.limits, cfg.actions.name, context.student.precision),
                    display=display,
                )
    return pairs


def held_out(run: StoredRun, limit: int | None) -> list[TaskInstance]:
    """Those of the evaluations in which the mistakes have a place."""
    ids = run.task_ids.get("heldout", [])
    fit = [run.tasks[one] for one in ids if one in run.tasks and place(run.tasks[one])]
    if not fit:
        raise NotMeasured("it has no held-out tasks with a known gold patch")
    return drawn(fit, run.seed or 0, limit)


def _of_student(
    plan: Plan,
    requests: Sequence[Request],
    checkpoint: Path | None,
    own: Path,
    *,
    student: Student,
    lead: Policy | None,
    player: Player,
    decided: Sequence[Any],
    display: Display,
) -> list[Pair]:
    """The pairs of one checkpoint, whose run is in the folder ``own``. ``lead`` None: the student
    plays the turns before the mistake, too. ``decided``: what else an episode depends on."""
    name = UNTRAINED if checkpoint is None else f"{own.name} {checkpoint.parent.name}"
    policy = student.policy(checkpoint, temperature=0.0, top_p=1.0)
    who: Actor = "student" if lead is None else "teacher"
    key = digest([str(one) for one in (checkpoint and checkpoint.resolve(), *decided)])

    def played(what: str, mixer: HandOver, teacher: Policy | None) -> dict[str, Episode]:
        folder = RoundFolder(RunFolder(own).analysis / "recovery" / f"{key}-{plan.lead}-{what}")
        title = f"{name}: {what}"
        player.play(
            folder,
            requests,
            display=display,
            title=title,
            student=policy,
            mixer=mixer,
            teacher=teacher,
        )
        asked = {request.episode_id for request in requests}
        found = [e for e in folder.episodes() if e.episode_id in asked and not e.outcome.mask]
        return {episode.instance_id: episode for episode in found}

    pairs: list[Pair] = []
    for turn in plan.turns:
        before = f"from_{turn}" if lead is not None else "alone"
        control = played(before, HandOver(turn, who, injected=False), lead)
        teacher = WithMistake(plan.mistake, turn, lead)
        mistaken = played(f"{plan.mistake}_{turn}", HandOver(turn, who, injected=True), teacher)
        pairs += [
            Pair(name, turn, task, mistaken[task].outcome.resolved, control[task].outcome.resolved)
            for task in sorted(mistaken.keys() & control.keys())
            if made(mistaken[task], turn) and alike(mistaken[task], control[task], turn)
        ]
    return pairs


def _lead(name: str, teacher: Teacher) -> Policy | None:
    if name == "student":
        return None
    if name == "teacher":
        return teacher.policy
    from swe_gym_env.policies.expert import ExpertPolicy

    return ExpertPolicy()


def made(episode: Episode, turn: int) -> bool:
    """The episode went on so far that the mistake was executed."""
    return len(episode.turns) > turn and episode.turns[turn].actor == "teacher"


def alike(one: Episode, other: Episode, turn: int) -> bool:
    """Both went the same way up to ``turn``: what a batch does to rounding may part greedy ones."""
    ways = [[before.text for before in episode.turns[:turn]] for episode in (one, other)]
    return ways[0] == ways[1]


def rows(pairs: Sequence[Pair], plan: Plan) -> Iterable[Row]:
    for student in dict.fromkeys(pair.student for pair in pairs):
        for turn in plan.turns:
            here = [pair for pair in pairs if (pair.student, pair.turn) == (student, turn)]
            if here:
                yield (student, plan.lead, plan.mistake, turn, *_compared(here))


def _compared(pairs: Sequence[Pair]) -> Row:
    n = len(pairs)
    without = sum(pair.control for pair in pairs)
    injected = sum(pair.injected for pair in pairs)
    back = sum(pair.injected and pair.control for pair in pairs)
    test = mcnemar({p.task: p.control for p in pairs}, {p.task: p.injected for p in pairs})
    lost = mean([float(pair.injected) - float(pair.control) for pair in pairs])
    return (n, *share(without, n), *share(injected, n), *lost, test.p, *share(back, without))


WITHOUT = ("without", "without_low", "without_high")
WITH = ("with_mistake", "with_low", "with_high")
CHANGE = ("change", "change_low", "change_high")
RECOVERY = ("recovery", "recovery_low", "recovery_high")


def measures(
    pairs: Mapping[str, Sequence[Pair]], why: Mapping[str, str], plan: Plan
) -> list[Measure]:
    """``pairs`` by the label of the run; ``why`` says for the others what they lack."""

    def found(run: StoredRun) -> Iterable[Row]:
        if run.name in why:
            raise NotMeasured(why[run.name])
        return rows(pairs[run.name], plan)

    columns = ("set", "lead", "mistake", "turn", "tasks", *WITHOUT, *WITH, *CHANGE, "p", *RECOVERY)
    table = Table(
        f"recovery_{plan.lead}_{plan.mistake}",
        "What the student resolves after an injected mistake, by the turn of the mistake",
        columns,
        (),
        "set: the student's checkpoint. Tasks in which the mistake was executed, each played with "
        "and without it, the same to the word up to there. change: with less without, "
        "bootstrap over tasks; p: exact McNemar; recovery: share of the tasks resolved without it "
        "that are resolved with it. Wilson intervals.",
        (*WITHOUT, *WITH, *CHANGE, *RECOVERY),
        Curve("turn", "recovery", "series", "recovery_low", "recovery_high", percent=True),
    )
    return [Measure(table, found)]
