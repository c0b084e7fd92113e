"""``python -m experiments.report FOLDER``: the page of a run, an evaluation or a sweep.

Killed ones have one too. Several run folders make one page that compares them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.console.progress import plain
from experiments.report import write_comparison, write_evaluation, write_report
from experiments.runs import layout
from experiments.runs.layout import is_evaluation
from experiments.runs.naming import digest
from experiments.runs.reader import EpisodeSet
from experiments.runs.sweep import is_sweep
from experiments.view import write_view
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder


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
        if not (layout.is_configured(folders[0]) or layout.has_run(folders[0])):
            raise SetupError(f"{folders[0]} holds no run, evaluation or sweep; runs lie in runs/")
        if not is_evaluation(folders[0]):
            return write_report(folders[0])
        if EpisodeSet("", RoundFolder(folders[0])).finished:
            write_view(folders[0])
        return write_evaluation(folders[0])
    if alone := [folder for folder in folders if is_evaluation(folder)]:
        raise SetupError(
            f"{alone[0]} is a single evaluation: give it alone, or compare evaluations by "
            "python -m experiments.compare FOLDER FOLDER"
        )
    if len(folders) == 1:
        return write_comparison(folders, out or folders[0], baseline)
    names = sorted(folder.resolve().name for folder in folders)
    beside = folders[0].resolve().parent / f"comparison-{digest(names)}"
    return write_comparison(folders, out or beside, baseline)


if __name__ == "__main__":
    main()
