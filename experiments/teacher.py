"""Makes teacher=trained: ``python -m experiments.teacher``, with the overrides of the run after it.

The expert knows the answer and gives no log-probs. What a method such as on-policy distillation
asks is a model with the student's tokenizer that is better than the student; so the student's own
base model is trained on more of the expert's episodes, for longer, than iteration 0 is. With
``teacher.rounds`` it then plays alone and learns what the expert would have done: an expert's own
episodes never show how to go on from a mistake. Killed or stopped, the same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.config.keys import defaults
from experiments.config.schema import Evaluation
from experiments.console.cli import HYDRA, explain_unknown, guarded
from experiments.console.progress import Display
from experiments.pipeline import preflight
from experiments.runs.folders import trained_folder
from swe_gym_env.errors import SetupError


def make(cfg: DictConfig, display: Display) -> Path:
    """The folder of the checkpoint, which teacher=trained finds."""
    if cfg.teacher.name != "trained":
        raise SetupError(
            f"teacher={cfg.teacher.name}: this command makes teacher=trained, which learns from "
            "the expert; leave teacher= out"
        )
    from algorithms.base import Algorithm  # late, so that --help and mistakes take no time
    from algorithms.dagger import DAgger
    from algorithms.schedules import Schedule
    from algorithms.sft import SFT
    from experiments.pipeline.build import RunContext
    from experiments.pipeline.evaluate import evaluate
    from experiments.pipeline.round import collect, train
    from experiments.pipeline.tasks import select

    folder = trained_folder(cfg)
    folders = [folder.round(index) for index in range(1 + cfg.teacher.rounds)]
    newest = folders[-1]
    cfg = _taught_by_the_expert(cfg)
    preflight.check(cfg)
    display.console.print(f"teacher folder: {folder.path}")
    with folder.lock():
        context, alone = RunContext(cfg), DAgger(Schedule("constant", start=0.0))
        student, player = context.student, context.player
        student.settle(folder.path)
        folder.start(cfg)
        saved = folder.tasks
        tasks = select(cfg, saved and {"train": saved["train"]}, display)
        folder.save_tasks(tasks.ids)
        for index in range(len(folders)):
            algorithm: Algorithm = alone if index else SFT()
            so_far, before = folders[: index + 1], folders[index - 1].checkpoint if index else None
            with folder.timed("collect"):
                collect(
                    algorithm,
                    so_far,
                    tasks,
                    before,
                    student=student,
                    teacher=context.teacher,
                    player=player,
                    display=display,
                )
            with folder.timed("train"):
                train(
                    algorithm,
                    so_far,
                    before,
                    student=student,
                    trainer=context.trainer,
                    settings=context.training,
                    display=display,
                )
        if tasks.heldout:
            measured = evaluate(
                folder.evaluation(f"val-{cfg.evaluation.tasks}"),
                tasks.evaluation(),
                newest.checkpoint,
                student=student,
                player=player,
                settings=cfg.evaluation,
                display=display,
                title="evaluate the teacher",
            )
            display.console.print(f"val: resolved {measured['resolved']} of {measured['n']}")
    display.console.print(f"teacher=trained: {newest.checkpoint}")
    return newest.checkpoint


def _taught_by_the_expert(cfg: DictConfig) -> DictConfig:
    """The configuration of iteration 0, with what the section ``teacher`` says in its place."""
    teacher = cfg.teacher
    unlimited = {name: dict.fromkeys(cfg.teacher[name]) for name in ("budget", "prices")}
    made = {str(name): value for name, value in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]
    made |= {
        "teacher": {"name": "expert", "tests": teacher.tests, "verdict": True, **unlimited},
        "seed": teacher.seed,
        "training": teacher.training,
        "iteration0": {**cfg.iteration0, "episodes": teacher.episodes},
        "episodes_per_round": teacher.episodes_per_round,
        "evaluation": {**defaults(Evaluation), "split": "val", "tasks": teacher.val_tasks},
    }
    return OmegaConf.create(made)


@hydra.main(**HYDRA)
def main(cfg: DictConfig) -> None:
    guarded(make, cfg, "experiments.teacher")


if __name__ == "__main__":
    if not any(argument.startswith("teacher=") for argument in sys.argv[1:]):
        sys.argv.append("teacher=trained")
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)  # Hydra goes on with the choices and values
    with explain_unknown():
        main()
