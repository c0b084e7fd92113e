"""Measures stored runs beyond their resolve rate; docs/reference/analysis.md has the tables.

By default from the stored episodes alone, in seconds. Each run folder gets analysis/tables.json and
a CSV for each table; of several runs one comparison is written besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.analysis import every_measure
from experiments.analysis.measure import Measure, NotMeasured
from experiments.console.cli import guarded
from experiments.console.progress import Display
from experiments.probes.injected import MISTAKES
from experiments.results.tables import Table
from experiments.runs import layout, sweep, tables
from experiments.runs.folders import RunFolder
from experiments.runs.inputs import refuse_changed
from experiments.runs.naming import digest
from experiments.runs.reader import EpisodeSet, StoredRun, read_runs
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Episode, TaskInstance

LACKING = (NotMeasured, SetupError, OmegaConfBaseException)  # what one run may end in
Tasks = dict[str, dict[str, TaskInstance]]  # by id, of each choice of tasks
LOGGING = {"logging": {"level": "INFO", "seconds_between_lines": 15}, "paths": {"runs": "runs"}}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.analyze", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="FOLDER", help="runs, evaluations or a sweep"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where the comparison of several runs goes (default: analysis/ beside the first, or "
        "in the sweep)",
    )
    parser.add_argument(
        "--teacher-episodes",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="more episodes that the teacher played alone, such as its evaluation on the held-out "
        "tasks: a folder with an episodes.jsonl; may be given several times",
    )
    model = parser.add_argument_group("with models")
    model.add_argument(
        "--divergence",
        action="store_true",
        help="the exact KL of the student from the teacher, in whose states",
    )
    model.add_argument(
        "--teacher", type=Path, metavar="FOLDER", help="a checkpoint; default: the run's own"
    )
    model.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    model.add_argument("--limit", type=int, metavar="N", help="episodes of each set; default: all")
    sandboxes = parser.add_argument_group("with models and sandboxes")
    sandboxes.add_argument(
        "--recovery",
        action="store_true",
        help="play held-out tasks with a mistake injected at a turn, and without",
    )
    sandboxes.add_argument("--turns", type=int, nargs="+", default=[0, 1, 2], metavar="T")
    sandboxes.add_argument("--mistake", default="missed_edit", choices=tuple(MISTAKES))
    sandboxes.add_argument(
        "--lead",
        default="student",
        choices=("student", "teacher", "expert"),
        help="who plays the turns before the mistake",
    )
    sandboxes.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME",
        help="whose recovery: untrained, iteration0, round_001, last (the default) or a folder; "
        "may be given several times",
    )
    return parser


def analyze(given: argparse.Namespace, display: Display) -> None:
    known: Tasks = {}
    _open_sweeps(given)
    there = [folder for folder in given.runs if layout.is_configured(folder)]
    for folder in given.runs:
        if there and folder not in there:
            display.console.print(f"{folder} is no run folder and is left out", style="yellow")
    runs = [_with_tasks(run, known, display) for run in read_runs(there or given.runs)]
    shown = _teacher_episodes(given.teacher_episodes)
    runs = [replace(run, demonstrated=shown) for run in runs]
    chosen = [*every_measure.OF_EPISODES]
    if given.divergence:
        chosen += _divergence(runs, given, display)
    if given.recovery:
        chosen += _recovery(runs, given, display)
    found = every_measure.tables(runs, chosen)
    _write(found, runs, given.out, display)


def _open_sweeps(given: argparse.Namespace) -> None:
    """A sweep stands for its runs, and the comparison goes where its report looks for it."""
    found: list[Path] = []
    for folder in given.runs:
        runs = sweep.run_folders(folder)
        if runs and len(given.runs) == 1:
            given.out = given.out or RunFolder(folder).analysis
        found += runs or [folder]
    given.runs = found


def _with_tasks(run: StoredRun, known: Tasks, display: Display) -> StoredRun:
    """Without them, what needs the gold patch is left out. ``known``: of runs before it."""
    try:
        return replace(run, tasks=_tasks(run, known, display))
    except (SetupError, OSError, OmegaConfBaseException) as error:
        why = f"its tasks cannot be had, so that gold patches are not looked at: {error}"
        display.console.print(f"{run.name}: {why}", style="yellow")
        return run


def _tasks(run: StoredRun, known: Tasks, display: Display) -> dict[str, TaskInstance]:
    from experiments.pipeline.tasks import select

    if "tasks" not in run.cfg:
        raise SetupError("config.yaml names no tasks")
    refuse_changed(run.folder, run.cfg, "tasks")
    saved = run.task_ids or None
    cfg = OmegaConf.to_container(run.cfg, resolve=True)
    assert isinstance(cfg, dict)
    own = digest([saved, cfg["tasks"], cfg["evaluation"], run.seed])
    if own not in known:
        chosen = select(run.cfg, saved, display)
        known[own] = {task.instance_id: task for task in (*chosen.train, *chosen.heldout)}
    return known[own]


def _teacher_episodes(folders: Sequence[Path]) -> list[Episode]:
    found: list[Episode] = []
    for folder in folders:
        if not layout.has_episodes(folder):
            raise SetupError(f"--teacher-episodes {folder}: there is no episodes.jsonl in it")
        found += EpisodeSet("given", RoundFolder(folder)).valid
    return found


def _divergence(
    runs: Sequence[StoredRun], given: argparse.Namespace, display: Display
) -> list[Measure]:
    from experiments.probes import divergence

    turns, why = {}, {}
    for run in runs:
        try:
            teacher = given.teacher or _teacher(run)
            turns[run.name] = divergence.measure(run, teacher, given.dtype, given.limit, display)
        except LACKING as lacking:
            why[run.name] = str(lacking)
    return divergence.measures(turns, why)


def _recovery(
    runs: Sequence[StoredRun], given: argparse.Namespace, display: Display
) -> list[Measure]:
    from experiments.probes import recovery

    checkpoints = given.checkpoint or ["last"]
    plan = recovery.Plan(given.turns, given.mistake, given.lead, checkpoints, given.limit)
    pairs, why = {}, {}
    for run in runs:
        try:
            pairs[run.name] = recovery.measure(run, plan, display)
        except LACKING as lacking:
            why[run.name] = str(lacking)
    return recovery.measures(pairs, why, plan)


def _teacher(run: StoredRun) -> Path:
    """The checkpoint of the run's own teacher, also where runs/ was moved. Raises SetupError."""
    from experiments.pipeline import teachers

    name = OmegaConf.select(run.cfg, "teacher.name")
    if name not in teachers.IN_PROCESS:
        raise SetupError(f"its teacher, {name}, gives no log-probs; --teacher FOLDER names another")
    try:
        return teachers.folder(run.cfg)
    except SetupError:
        moved = run.cfg.copy()
        moved.paths.runs = str(run.folder.resolve().parent)
        return teachers.folder(moved)


def _write(
    found: Sequence[Table], runs: Sequence[StoredRun], out: Path | None, display: Display
) -> None:
    for run in runs:
        place = RunFolder(run.folder).analysis
        tables.add(place, every_measure.of_run(found, run))
        display.console.print(f"{run.name}: {place}")
    if len(runs) > 1:
        folder = out or RunFolder(runs[0].folder.resolve().parent).analysis
        tables.write(folder, found)
        display.console.print(f"comparison of {len(runs)} runs: {folder}", style="bold")
    for table in found:
        if table.name == every_measure.LACKING.name:
            for label, _, _, measure, why in table.rows:
                display.console.print(f"{label}: {measure} not measured: {why}")
        else:
            display.console.print(f"{table.name}.csv: {table.title}, {len(table.rows)} rows")


def main() -> None:
    given = arguments().parse_args()

    def job(_: DictConfig, display: Display) -> None:
        analyze(given, display)

    guarded(job, OmegaConf.create(LOGGING), "experiments.analyze")


if __name__ == "__main__":
    main()
