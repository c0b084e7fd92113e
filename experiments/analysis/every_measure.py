"""Every run by every measure: one table for each measure, whatever single runs lack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.analysis import agreement, cost, failures, finishing, shares, state_distance
from experiments.results import table_files
from experiments.results.tables import Table
from experiments.runs.stored import Measure, NotMeasured, Row, StoredRun, read_runs
from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance

OF_EPISODES = (
    agreement.BY_TURN,
    agreement.BY_ROUND,
    finishing.BY_TURN,
    finishing.BY_LAST_CHANGE,
    state_distance.BY_TURN,
    state_distance.BY_SET,
    shares.BY_KAPPA,
    shares.BY_SHARE,
    failures.BY_KIND,
    failures.BY_ENDING,
    cost.COST,
)
LACKING = Table(
    "not_measured",
    "What could not be measured, and why",
    ("run", "algorithm", "seed", "measure", "why"),
    (),
)


def tables(runs: Sequence[StoredRun], measures: Sequence[Measure]) -> list[Table]:
    """One table for each measure that some run has, and one of what was not measured."""
    found, lacking = [], []
    for measure in measures:
        rows: list[Row] = []
        for run in runs:
            own = (run.label, run.algorithm, run.seed)
            try:
                rows += [(*own, *row) for row in measure.rows(run)]
            except (NotMeasured, SetupError) as why:
                lacking.append((*own, measure.table.name, str(why)))
        if rows:
            found.append(_filled(measure.table, rows, len(runs) > 1))
    return [*found, replace(LACKING, rows=lacking)] if lacking else found


def _filled(table: Table, rows: list[Row], several: bool) -> Table:
    columns = ("run", "algorithm", "seed", *table.columns)
    if table.curve is not None and table.curve.by == "series":
        place = columns.index("set")
        rows = [(*row, f"{row[0]}: {row[place]}" if several else row[place]) for row in rows]
        columns = (*columns, "series")
    return replace(table, columns=columns, rows=rows)


def of_run(found: Sequence[Table], run: StoredRun) -> list[Table]:
    """The rows of one run."""
    own = [replace(t, rows=[row for row in t.rows if row[0] == run.label]) for t in found]
    return [table for table in own if table.rows]


def add_failures(folder: Path, tasks: Iterable[TaskInstance]) -> None:
    """Counts the kinds of failure of the run or evaluation in ``folder`` and puts the table into
    its analysis/, where the report finds it."""
    (run,) = read_runs([folder])
    run = replace(run, tasks={task.instance_id: task for task in tasks})
    table_files.add(folder / "analysis", tables([run], [failures.BY_KIND]))
