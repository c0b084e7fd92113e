"""What the parts around the model cost, and how that grows: sandboxes, gradings, rows, stored runs.

    python -m experiments.benchmarks.environment_speed                  everything
    python -m experiments.benchmarks.environment_speed --only stored    or tasks, import, sandbox
    python -m experiments.benchmarks.environment_speed --figure costs.png

Measured, each against the number that it should be linear in, or not depend on:

- `stored`: CPU seconds of `experiments.report` and `experiments.view`, and of reading all rounds
  as a resumed run does, over the number of stored episodes.
- `tasks`: CPU seconds of loading task rows, over their number.
- `import`: CPU seconds of `import swe_gym_env`, less those of an empty Python.
- `sandbox`: milliseconds of a step over the turns before it; of a reset and of grading one of
  several patches of a task, over how many do so at the same time. The tests themselves take no
  time there (the script is `true`), so that all of it is overhead.

CPU seconds are user and system time of a separate process. `sandbox_speed` compares a step and a
reset with other projects.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.benchmarks import sandbox_speed
from experiments.benchmarks.stored_episodes import write_run
from experiments.report import charts
from experiments.report.contact_sheet import contact_sheet, write_png
from experiments.results.tables import Curve, Table
from swe_gym_env.env import SWEEnv
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import provider
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.types import TaskInstance

EPISODES = (60, 2500, 10_000)
ROWS = (12_500, 25_000, 50_000, 100_000)
TURNS, WINDOW = 400, 50
AT_ONCE = (1, 2, 4, 8)
PATCH = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
READ = """
import sys
from experiments.runs.reader import read_run
from pathlib import Path
for one in read_run(Path(sys.argv[1])).rounds:
    one.folder.read(one.round)
for one in read_run(Path(sys.argv[1])).evaluations:
    one.folder.episodes()
"""
LOAD = """
import sys
from swe_gym_env.tasks import load
load("jsonl", path=sys.argv[1])
"""
Points = Iterator[tuple[float, str, float]]  # where, what, and its cost


def cpu_seconds(*arguments: str | Path, runs: int = 3) -> float:
    """Median CPU seconds of Python with these arguments."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    found = []
    for _ in range(runs):
        before = spent()
        subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
        found.append(spent() - before)
    return statistics.median(found)


def stored(folder: Path) -> Points:
    for count in EPISODES:
        run = write_run(folder / str(count), count)
        yield count, "report", cpu_seconds("-m", "experiments.report", run)
        yield count, "view", cpu_seconds("-m", "experiments.view", run)
        yield count, "resume", cpu_seconds("-c", READ, run)


def tasks(folder: Path) -> Points:
    """Rows as long as those of SWE-bench: 6 kB."""
    text, tests = "A line of a report, of a patch or of a test.\n" * 40, range(40)
    diff = "".join(f"{PATCH}+{line}\n" for line in text.splitlines()[:12])
    row = TaskInstance(
        *("id", "owner/name", "a" * 40, "image", text, diff, diff, ("tests/test_a.py::new",)),
        tuple(f"tests/test_a.py::test_{number}" for number in tests),
        "pytest tests/test_a.py",
    )
    for count in ROWS:
        path = folder / f"rows-{count}.jsonl"
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({**to_row(row), "instance_id": f"task-{number}"}) + "\n")
        yield count, "rows", cpu_seconds("-c", LOAD, path)
        path.unlink()


def imported(folder: Path) -> Points:
    empty = cpu_seconds("-c", "pass", runs=5)
    for name in ("numpy", "gymnasium", "swe_gym_env"):
        yield 1, name, cpu_seconds("-c", f"import {name}", runs=5) - empty


def steps(task: TaskInstance) -> Points:
    """Medians of as many steps as a window holds."""
    env = SWEEnv([task], sandbox="local", max_turns=10**6, max_repeats=10**6, grade="never")
    env.reset()
    turn = "```bash\necho hi\n```"
    for start in range(0, TURNS, WINDOW):
        took = [sandbox_speed.milliseconds(lambda: env.step(turn)) for _ in range(WINDOW)]
        yield start, "step", statistics.median(took)
    env.close()


def at_once(task: TaskInstance, rounds: int = 10) -> Points:
    """Milliseconds for each, where several run at the same time."""
    local = provider("local")

    def reset() -> None:
        env = SWEEnv([task], sandbox=local, grade="never")
        env.reset()
        env.close()

    def graded() -> None:
        outcome = grade(task, PATCH, local)
        assert outcome.status == "unresolved", outcome

    for name, call in (("reset", reset), ("grading", graded)):
        call()
        for workers in AT_ONCE:
            took = [_together(call, workers) / workers for _ in range(rounds)]
            yield workers, name, statistics.median(took)


def _together(call: Callable[[], None], workers: int) -> float:
    with ThreadPoolExecutor(workers) as pool:
        return sandbox_speed.milliseconds(
            lambda: [future.result() for future in [pool.submit(call) for _ in range(workers)]]
        )


def sandboxes(folder: Path) -> list[Table]:
    task = dataclasses.replace(sandbox_speed.task(folder), fail_to_pass=("test_a.py::t",))
    return [
        _table("steps", "A step, by the turns before it", "turns", "ms", steps(task)),
        _table("at once", "One of several at once", "at once", "ms of each", at_once(task)),
    ]


def _table(name: str, title: str, x: str, y: str, points: Points) -> Table:
    curve = Curve(x, y, by="what")
    return Table(name, title, (x, "what", y), [*points], curve=curve)


def measured(only: str | None, folder: Path) -> Iterator[Table]:
    if only in (None, "import"):
        yield _table("import", "Import", "number", "CPU s", imported(folder))
    if only in (None, "sandbox"):
        yield from sandboxes(folder)
    if only in (None, "tasks"):
        yield _table("tasks", "Loading task rows", "rows", "CPU s", tasks(folder))
    if only in (None, "stored"):
        yield _table("stored", "Reading a stored run", "episodes", "CPU s", stored(folder))


def shown(table: Table) -> str:
    """As markdown: a column for each number, a row for what was measured."""
    places = list(dict.fromkeys(row[0] for row in table.rows))
    names = list(dict.fromkeys(row[1] for row in table.rows))
    cells = {(row[0], row[1]): f"{row[2]:.2f}" for row in table.rows}
    lines = [f"| {table.columns[2]}, by {table.columns[0]} | {' | '.join(map(str, places))} |"]
    lines.append("|---" * (len(places) + 1) + "|")
    lines += [f"| {n} | " + " | ".join(cells[p, n] for p in places) + " |" for n in names]
    return "\n".join([table.title, "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=("stored", "tasks", "import", "sandbox"))
    parser.add_argument("--figure", type=Path, help="a PNG file for the curves")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWE_GYM_HOME"] = folder
        for table in measured(args.only, Path(folder)):
            print(shown(table), flush=True)
            tables.append(table)
    if args.figure:
        drawn = [(f"{t.title} ({t.columns[2]})", charts.curve(t)) for t in tables if t.rows]
        write_png(contact_sheet("", [("", drawn)]), args.figure)


if __name__ == "__main__":
    main()
