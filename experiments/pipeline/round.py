"""One round: collect episodes as the algorithm says, have them scored, train on them.

Each phase can be killed at any time: episodes and scores are stored one by one, and a phase is done
only when its mark is written.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from algorithms.base import Algorithm, TrainingExample
from algorithms.trainer import Trainer, TrainingJob
from experiments.console.progress import Advance, Display
from experiments.pipeline.play import Player
from experiments.pipeline.student import Student
from experiments.pipeline.tasks import Selection
from experiments.pipeline.teachers import Teacher
from experiments.results import metrics
from experiments.runs import inputs
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.budget import Spent
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.mixers import Mixer, StudentOnly, TeacherOnly
from swe_gym_env.rollout.store import RoundFolder, in_order
from swe_gym_env.types import Annotation

if TYPE_CHECKING:
    from algorithms.engine.training_config import TrainingConfig

log = logging.getLogger(__name__)

KEPT = "training"  # folder with the state of an unfinished training, in that of its round


def collect(
    algorithm: Algorithm,
    folders: Sequence[RoundFolder],
    tasks: Selection,
    checkpoint: Path | None,
    *,
    student: Student,
    teacher: Teacher,
    player: Player,
    display: Display,
    staleness: int = 0,
) -> None:
    """Writes episodes.jsonl, annotations.jsonl and metrics.json of the newest round.

    Args:
        algorithm: Decides who acts and who labels.
        folders: Those of rounds 0, 1, ...; the last one is collected.
        tasks: The tasks of the run.
        checkpoint: The checkpoint of the student that acts; None is the untrained one.
        student: Acts.
        teacher: Acts and labels, for as long as its budget lasts.
        player: Plays the episodes.
        display: Shows the progress.
        staleness: How many trained rounds ``checkpoint`` is behind the newest possible student.
    """
    folder, index = folders[-1], len(folders) - 1
    if checkpoint is not None:
        inputs.check_student(folder.path, checkpoint, "was played by")
    if folder.is_done("collect"):
        return
    plan = algorithm.collect(index)
    policy = student.policy(checkpoint, plan.temperature, plan.top_p)
    account = teacher.account(folders)
    version = {"policy_version": index - 1 - staleness, "staleness": staleness} if index else {}
    if staleness:
        log.info("round %d is played by the student of round %d", index, index - 1 - staleness)
    extra = 0
    while True:
        requests = _repeated(tasks.requests(index, extra), plan.repeats)
        player.play(
            folder,
            requests,
            display=display,
            title=f"round {index}: collect",
            student=policy,
            mixer=plan.mixer,
            teacher=teacher.paid(account),
            annotate=plan.annotate == "label",
            learned=plan.learned,
        )
        # A killed run may have stored episodes of extra tasks. They do not count here, so that the
        # same number of extra tasks is decided again.
        requested = {request.episode_id for request in requests}
        played = [episode for episode in folder.episodes() if episode.episode_id in requested]
        more = algorithm.extra_tasks(len(tasks.requests(index)), played)
        if not more:
            break
        extra += more
        log.info("round %d: %d more tasks", index, more)
    attempts = folder.attempts()
    labels = folder.annotations(attempts)
    _log_unlabeled(labels, index)
    folder.add_metrics(
        round=index,
        **version,
        planned_teacher_share=planned_share(plan.mixer),
        **metrics.of_round(in_order(attempts), labels),
        **account.metrics,
    )
    folder.mark_done("collect")


def _log_unlabeled(labels: Sequence[Annotation], index: int) -> None:
    """One line for all failed labels, of which there may be thousands."""
    if why := metrics.why_unlabeled(labels):
        reasons = ", ".join(f"{kind} {count}" for kind, count in why.items())
        count = sum(why.values())
        log.warning("round %d: %d of %d states unlabeled (%s)", index, count, len(labels), reasons)


def _repeated(requests: Sequence[Request], repeats: int) -> list[Request]:
    return [
        replace(request, repeat=request.repeat * repeats + repeat)
        for request in requests
        for repeat in range(repeats)
    ]


def score(
    algorithm: Algorithm,
    folders: Sequence[RoundFolder],
    *,
    student: Student,
    teacher: Teacher,
    display: Display,
) -> None:
    """Writes scores.jsonl of the newest of ``folders`` if the algorithm needs scores. Once the
    teacher's budget is spent, the remaining episodes have no scores."""
    folder, index = folders[-1], len(folders) - 1
    scoring = algorithm.scoring
    if scoring is None or folder.is_done("score"):
        return
    attempts = folder.attempts()
    episodes = in_order(attempts)
    there = {(score.episode_id, score.turn) for score in folder.scores(attempts)}
    wanted = {
        episode.episode_id: {
            turn
            for turn, executed in enumerate(episode.turns)
            if scoring.turns in ("all", executed.actor)
        }
        for episode in episodes
        if not episode.outcome.mask
    }
    missing = [e for e in episodes if _lack(wanted, e.episode_id, there)]
    student.free_memory()
    from_start = scoring.scorer == "start"
    scorer = student.scorer(folders[0].checkpoint) if from_start else teacher.scorer()
    account = teacher.account(folders)
    # computed only as far as the loop below takes them
    scores = scorer.score(missing, scoring.top_k, algorithm.objective.temperature)
    with (
        display.phase(f"round {index}: score", len(missing)) as advance,
        contextlib.closing(scores),
    ):
        for episode in missing:
            if scoring.scorer == "teacher" and account.over():
                break
            turns = wanted[episode.episode_id]
            new = [score for score in next(scores) if score.turn in turns]
            if scoring.scorer == "teacher":
                account.add(Spent(scored_tokens=sum(len(score.logprobs) for score in new)))
            folder.add_scores(new)
            advance(1)
    folder.add_metrics(**account.metrics)
    folder.mark_done("score")


def _lack(wanted: dict[str, set[int]], name: str, there: set[tuple[str, int]]) -> bool:
    """Whether a wanted turn of the episode has no score."""
    return any((name, turn) not in there for turn in wanted.get(name, ()))


def planned_share(mixer: Mixer) -> float | None:
    """The planned share of turns that the teacher takes; None if the mixer fixes no number."""
    fixed = {StudentOnly: 0.0, TeacherOnly: 1.0}
    return getattr(mixer, "beta", fixed.get(type(mixer)))


def training_examples(
    algorithm: Algorithm, folders: Sequence[RoundFolder]
) -> list[TrainingExample]:
    """What the newest of ``folders`` (rounds 0, 1, ...) is trained on. Raises SetupError."""
    rounds = [folder.read(index) for index, folder in enumerate(folders)]
    try:
        return list(algorithm.examples(rounds))
    except ValueError as error:
        raise SetupError(f"algorithm={algorithm.name}: {error}") from None


def train(
    algorithm: Algorithm,
    folders: Sequence[RoundFolder],
    checkpoint: Path | None,
    *,
    student: Student,
    trainer: Trainer,
    settings: TrainingConfig,
    display: Display,
) -> None:
    """Has ``trainer`` train the newest of ``folders`` (rounds 0, 1, ...), as ``settings`` say.

    It begins with ``checkpoint`` (None: the untrained student) and leaves ``checkpoint/`` there.

    Raises:
        SetupError: The trainer cannot train the round, or left no checkpoint.
    """
    folder, index = folders[-1], len(folders) - 1
    if folder.is_done("train"):
        return
    from algorithms.engine import parallel, resume
    from algorithms.engine.examples import labels_as_executed, prefix_breaks
    from algorithms.engine.trainer import EngineTrainer

    student.free_memory()
    examples = training_examples(algorithm, folders)
    renderer = student.renderer
    teaches = any(t.weight or t.pg_weight or t.kl_weight for e in examples for t in e.targets)
    if not teaches:
        log.warning("round %d teaches nothing: the student stays as it was", index)
        trainer = EngineTrainer()
    with contextlib.ExitStack() as stack:
        shown = _Shown(display, f"round {index}: train", stack)
        job = TrainingJob(
            examples,
            algorithm.objective,
            checkpoint or student.start,
            folder.checkpoint,
            folder.path / KEPT,
            renderer,
            settings,
            student.dtype,
            shown,
        )
        try:
            measured = trainer.train(job)
        except ValueError as error:
            raise SetupError(f"algorithm={algorithm.name}: {error}") from None
    if not parallel.is_main():
        return
    if not (folder.checkpoint / "config.json").is_file():
        kind = type(trainer)
        raise SetupError(
            f"trainer._target_={kind.__module__}.{kind.__name__} left no Hugging Face folder in "
            f"{folder.checkpoint}: it must save the student in job.output"
        )
    if teaches:
        same, in_other_tokens = labels_as_executed(examples, renderer)
        folder.add_metrics(
            **measured,
            prefix_breaks=sum(prefix_breaks(example.episode, renderer) for example in examples),
            labels_as_executed=same,
            labels_as_executed_in_other_tokens=in_other_tokens,
        )
    folder.mark_done("train")
    resume.forget(folder.path / KEPT)


class _Shown:
    """A phase of the display, which begins with the first report of the trainer."""

    def __init__(self, display: Display, title: str, stack: contextlib.ExitStack) -> None:
        self._begin = lambda total: stack.enter_context(display.phase(title, total))
        self._advance: Advance | None = None

    def __call__(self, done: int, total: int, remark: str) -> None:
        if self._advance is None:
            self._advance = self._begin(total)
        self._advance.to(done, total, remark)
