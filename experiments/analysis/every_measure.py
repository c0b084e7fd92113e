"""Every run by every measure: one table for each measure, whatever single runs lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.analysis import agreement, cost, failures, finishing, shares, state_distance
from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.results.tables import Table
from experiments.runs.reader import StoredRun
from swe_gym_env.errors import SetupError

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
            own = (run.name, run.algorithm, run.seed)
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
    own = [replace(t, rows=[row for row in t.rows if row[0] == run.name]) for t in found]
    return [table for table in own if table.rows]
