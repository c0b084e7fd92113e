"""Labels the episodes of a finished round once more, by another teacher.

    python -m experiments.annotate run=RUN_FOLDER round=N teacher=NAME [teacher.KEY=VALUE ...]

    run=FOLDER      a run folder; its own config.yaml says everything but the teacher
    round=N         which of its rounds; 0 is iteration 0
    teacher=...     expert, server, hf or trained, and its options (teacher.path=FOLDER, ...)
    workers.*, logging.*, sandbox=...   as for experiments.run

A model sees the stored states and needs no sandbox. The expert looks into a sandbox, so the
executed turns are played again in a new one. The labels are added to the round's annotations.jsonl
under the annotator's name, beside those that are there. python -m experiments.train trains it
again. Killed or stopped, the same command resumes; states whose label failed are asked again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.console.cli import CONF, guarded
from experiments.console.progress import Display
from experiments.runs.folders import RunFolder
from experiments.runs.inputs import refuse_changed
from experiments.runs.layout import is_configured
from experiments.runs.reader import load_config
from swe_gym_env.errors import SetupError

MAY_DIFFER = ("teacher", "workers", "logging", "sandbox")  # from the run's own configuration


def annotate(cfg: DictConfig, display: Display) -> None:
    """Labels every turn of the round that ``cfg.relabel.run`` and ``.round`` name."""
    from experiments.pipeline import preflight
    from experiments.pipeline.build import RunContext
    from experiments.pipeline.relabel import relabel
    from experiments.pipeline.tasks import select

    run = RunFolder(Path(cfg.relabel.run))
    folders = [run.round(i) for i in range(cfg.relabel.round + 1)]
    stored = folders[-1].path.resolve()  # iteration 0 is a link into the folder that runs share
    if not folders[-1].is_done("collect"):
        raise SetupError(f"round={cfg.relabel.round}: {stored} holds no collected round")
    refuse_changed(run.path, cfg, "tasks", "model")
    preflight.check_teacher(cfg)
    context = RunContext(cfg)
    teacher = context.teacher
    tasks = select(cfg, None, display).train if teacher.policy.needs_sandbox else []
    with RunFolder(stored.parents[1]).lock():
        given, failed = relabel(
            folders,
            {task.instance_id: task for task in tasks},
            teacher=teacher,
            form=context.student.form,
            make_env=context.make_env,
            concurrency=cfg.workers.concurrency,
            display=display,
        )
    display.console.print(f"{given} labels by {teacher.name}, {failed} states without: {stored}")


def configuration(arguments: Sequence[str]) -> DictConfig:
    """The run's configuration with another teacher. Raises SetupError."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    run, index = given.pop("run", ""), given.pop("round", "")
    if not run or not is_configured(Path(run)):
        raise SetupError(f"run={run}: give a run folder, which holds a config.yaml")
    if not index.isdigit():
        raise SetupError(f"round={index}: give the number of one of its rounds")
    foreign = [name for name in given if name.split(".")[0] not in MAY_DIFFER]
    if foreign or "teacher" not in given or len(given) != len(arguments) - 2:
        wrong = f"{foreign[0]}= is the run's own" if foreign else "teacher=NAME is needed"
        raise SetupError(f"{wrong}; python -m experiments.annotate --help says what can be given")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            new = compose("config", overrides=[f"{name}={value}" for name, value in given.items()])
    except (HydraException, OmegaConfBaseException) as error:
        raise SetupError(str(error)) from None
    cfg = load_config(Path(run))
    for name in MAY_DIFFER if "sandbox" in given else MAY_DIFFER[:-1]:
        cfg[name] = new[name]
    cfg.evaluation.tasks = 0  # only the training tasks are needed
    cfg.relabel = {"run": run, "round": int(index)}
    return cfg


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    try:
        cfg = configuration(arguments)
    except SetupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    guarded(annotate, cfg, "experiments.annotate", stored=True)


if __name__ == "__main__":
    main()
