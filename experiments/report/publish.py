"""The last step of a run and of an evaluation: the pages that show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from experiments.analysis import every_measure, failures
from experiments.report.evaluation_page import write_evaluation
from experiments.report.run_page import write_report
from experiments.runs import layout, tables
from experiments.runs.folders import RunFolder
from experiments.runs.reader import read_runs
from experiments.view import write_view
from swe_gym_env.types import TaskInstance


def publish(folder: Path, tasks: Iterable[TaskInstance] | None = None) -> Path:
    """Writes the pages of a finished run or evaluation.

    Args:
        folder: Of the run or the evaluation.
        tasks: Its tasks, if it has just ended: failures are counted by their gold patches. None:
            it had ended before, and pages that are there stay as they are.

    Returns:
        The path of the report.
    """
    page = RunFolder(folder).report_page
    if tasks is not None:
        count_failures(folder, tasks)
    elif page.exists():
        return page
    write_view(folder)
    return write_evaluation(folder) if layout.is_evaluation(folder) else write_report(folder)


def count_failures(folder: Path, tasks: Iterable[TaskInstance]) -> None:
    """Counts the kinds of failure of the run or evaluation in ``folder`` and adds the table to its
    analysis, where the report reads it."""
    (run,) = read_runs([folder])
    run = replace(run, tasks={task.instance_id: task for task in tasks})
    counted = every_measure.tables([run], [failures.BY_KIND])
    tables.add(RunFolder(folder).analysis, counted)
