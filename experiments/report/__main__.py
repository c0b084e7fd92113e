"""``python -m experiments.report FOLDER``: the page of a run, an evaluation or a sweep.

Killed ones have one too. Several run folders make one page that compares them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.console.progress import plain
from experiments.report import write_comparison, write_evaluation, write_report
from experiments.report.evaluation_page import is_evaluation
from experiments.report.groups import is_sweep
from experiments.runs.naming import digest
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError

MADE = ("config.yaml", "rounds", "evaluations")  # of a run, also one that was killed


def main() -> None:
    parser = argparse.ArgumentParser(prog="experiments.report", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--baseline", metavar="ROW", help="the row that others are compared with")
    parser.add_argument(
        "--out", type=Path, help="where a comparison of run folders goes, by default beside them"
    )
    given = parser.parse_args()
    for folder in given.folders:
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder; runs lie in runs/")
    try:
        with room_for(given.out or given.folders[0]):
            print(_write(given.folders, given.out, given.baseline))
    except SetupError as error:
        sys.exit(plain(f"\n{error}"))


def _write(folders: list[Path], out: Path | None, baseline: str | None) -> Path:
    if len(folders) > 1 and (sweeps := [folder for folder in folders if is_sweep(folder)]):
        raise SetupError(f"{sweeps[0]} is a sweep: give it alone, or its run folders")
    if len(folders) == 1 and not is_sweep(folders[0]):
        if out or baseline:
            raise SetupError("--out and --baseline are for several run folders, or a sweep's")
        if not any((folders[0] / name).exists() for name in MADE):
            raise SetupError(f"{folders[0]} holds no run, evaluation or sweep; runs lie in runs/")
        return (
            write_evaluation(folders[0]) if is_evaluation(folders[0]) else write_report(folders[0])
        )
    if alone := [folder for folder in folders if is_evaluation(folder)]:
        raise SetupError(
            f"{alone[0]} is an evaluation by itself: give it alone, or compare evaluations by "
            "python -m experiments.compare FOLDER FOLDER"
        )
    if len(folders) == 1:
        return write_comparison(folders, out or folders[0], baseline)
    names = sorted(folder.resolve().name for folder in folders)
    beside = folders[0].resolve().parent / f"comparison-{digest(names)}"
    return write_comparison(folders, out or beside, baseline)


if __name__ == "__main__":
    main()
