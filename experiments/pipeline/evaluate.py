"""One evaluation for every method, model and endpoint. The measured policy acts alone.

A run calls :func:`evaluate` for its student; ``python -m experiments.evaluate`` calls it for any
checkpoint, and :func:`evaluate_teacher` for the expert or an endpoint. Killed, it goes on with the
episodes that are missing. What it leaves beside episodes.jsonl: metrics.json, a CSV file for each
table, and predictions in SWE-bench's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from experiments.config import values
from experiments.config.keys import defaults
from experiments.config.teachers import ExpertTeacher
from experiments.console.progress import Display
from experiments.pipeline import teachers
from experiments.pipeline.play import Player
from experiments.pipeline.student import Student
from experiments.pipeline.teachers import Teacher
from experiments.results import evaluation
from experiments.runs import inputs, predictions
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.budget import Prices, Spent
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.rollout.store import RoundFolder


def evaluate(
    folder: RoundFolder,
    requests: Sequence[Request],
    checkpoint: Path | None,
    *,
    student: Student,
    player: Player,
    settings: DictConfig,
    display: Display,
    title: str,
) -> dict[str, Any]:
    """Measures a checkpoint of the student. Does nothing where ``folder`` has been measured.

    Args:
        folder: Where the episodes and the results are kept.
        requests: The episodes to play.
        checkpoint: What is measured; None is the untrained student.
        student: Acts.
        player: Plays the episodes.
        settings: The section ``evaluation``.
        display: Shows the progress.
        title: Names the evaluation there.

    Returns:
        What stands in the folder's metrics.json.
    """
    if checkpoint is not None:
        inputs.check_student(folder.path, checkpoint, "measured")
    if folder.is_done("evaluate"):
        return folder.metrics
    # as section sampling says, or greedily
    how = {} if settings.get("samples") else {"temperature": 0.0, "top_p": 1.0}
    policy = student.policy(checkpoint, **how)
    player.play(folder, requests, display=display, title=title, student=policy, mixer=StudentOnly())
    measured = str(checkpoint or student.start)
    _keep_results(folder, requests, settings, Spent(), Prices(), student.name, measured)
    return folder.metrics


def evaluate_teacher(
    folder: RoundFolder,
    requests: Sequence[Request],
    *,
    teacher: Teacher,
    player: Player,
    settings: DictConfig,
    display: Display,
    title: str,
) -> dict[str, Any]:
    """As :func:`evaluate`, for the teacher. It acts in the student's place, so that what it writes
    is parsed as anyone's; its calls and tokens are written down."""
    if folder.is_done("evaluate"):
        return folder.metrics
    policy = teacher.paid(teacher.account([folder]))
    player.play(folder, requests, display=display, title=title, student=policy, mixer=StudentOnly())
    spent = folder.spent(teacher.name)
    _keep_results(folder, requests, settings, spent, teacher.prices, teacher.name, None)
    return folder.metrics


def _keep_results(
    folder: RoundFolder,
    requests: Sequence[Request],
    settings: DictConfig,
    spent: Spent,
    prices: Prices,
    model: str,
    checkpoint: str | None,
) -> None:
    """Computes the results from the episodes in ``folder``, which have all been played."""
    asked = {request.episode_id for request in requests}
    episodes = [episode for episode in folder.episodes() if episode.episode_id in asked]
    tasks = [request.task for request in requests]
    measured = evaluation.measure(episodes, tasks, spent, prices)
    folder.add_metrics(
        split=settings.split,
        model=model,
        checkpoint=checkpoint,
        samples=settings.get("samples"),
        **measured,
    )
    for table in [*evaluation.tables(measured), evaluation.of_tasks(episodes, tasks)]:
        table.write_csv(folder.path)
    predictions.write(folder.path, episodes)
    folder.mark_done("evaluate")


def alone(cfg: DictConfig) -> DictConfig:
    """``cfg`` with what an evaluation has no use for taken out. Raises SetupError."""
    values.check_some(cfg, "evaluation.samples")
    alone_cfg, who = cfg.copy(), cfg.evaluation.who
    samples = cfg.evaluation.samples
    if who == "teacher" and cfg.teacher.name == "trained":
        with open_dict(
            alone_cfg
        ):  # it is found by what it was made of, which the next lines change
            alone_cfg.teacher.path = str(teachers.folder(cfg))
    alone_cfg.tasks.train = 0
    if who == "student":
        expert = {"name": "expert", **defaults(ExpertTeacher)}  # needs no server and no weights,
        alone_cfg.teacher = expert  # and is never asked
    elif who == "teacher":
        _check_teacher(cfg)
        alone_cfg.teacher.budget = dict.fromkeys(cfg.teacher.budget)  # it limits a run
        alone_cfg.model.requires = {"gpus": 0, "gpu_gb": 0}  # only its tokenizer counts tokens
        if samples is None and "temperature" in alone_cfg.teacher:
            alone_cfg.teacher.temperature, alone_cfg.teacher.top_p = 0.0, 1.0
    else:
        raise SetupError(f"evaluation.who={who}: it is student or teacher")
    return alone_cfg


def refuse_in_a_run(cfg: DictConfig) -> None:
    """SetupError where a training run is given a setting that only ``experiments.evaluate`` can
    follow, or that no evaluation can."""
    untrained = cfg.evaluation.get("untrained", True)
    if not isinstance(untrained, bool) and not (isinstance(untrained, int) and untrained >= 0):
        raise SetupError(
            f"evaluation.untrained={untrained}: it is true (all tasks), false (none), or on how "
            "many of the tasks the untrained student is measured"
        )
    if _is_teacher(cfg) or cfg.evaluation.get("samples"):
        raise SetupError(
            "A run measures its student, greedily. evaluation.who and evaluation.samples are for "
            "python -m experiments.evaluate, which measures its checkpoints too: model.path=FOLDER"
        )


def _is_teacher(cfg: DictConfig) -> bool:
    return cfg.evaluation.get("who") == "teacher"


def _check_teacher(cfg: DictConfig) -> None:
    name = cfg.teacher.name
    if name == "hf":
        raise SetupError(
            "evaluation.who=teacher measures the expert, a server or teacher=trained; a model in "
            "this process is measured by model.path=FOLDER"
        )
    if cfg.teacher.get("actions"):
        raise SetupError(
            f"teacher.actions={cfg.teacher.actions}: who is measured writes turns in the form that "
            f"the prompt describes; give actions={cfg.teacher.actions} instead"
        )
