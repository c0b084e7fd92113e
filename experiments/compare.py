"""Finished evaluations side by side: ``python -m experiments.compare FOLDER FOLDER ...``

A FOLDER is runs/evaluation-..., runs/RUN/evaluations/NAME, or a finished runs/RUN (its last one);
NAME=FOLDER calls it NAME. Each is compared with the first on the tasks that both have. Several
seeds of one method are a group: --group dagger=FOLDER,FOLDER,...; its interval is over both.
--out writes outcomes.csv beside the tables: it can be given in the place of the folders, and a
--group of a name that it has adds seeds to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.console import progress, terminal
from experiments.results import comparison, outcomes
from experiments.results.comparison import Group
from experiments.results.outcomes import Outcomes
from experiments.results.tables import Table
from experiments.runs import evaluations
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError


def groups(
    given: Sequence[str],
    named: Sequence[str],
    only: tuple[str, ...] = (),
    against: str | None = None,
    who: Sequence[str] = (),
) -> list[Group]:
    """As they are given on the command line; the first is what the others are compared with.
    ``who``: only these of them, and ``against``. Raises SetupError."""
    found: dict[str, list[Outcomes]] = {}
    kept = [one for one in given if one.endswith(".csv") and Path(one).is_file()]
    for file in kept:
        for name, seeds in outcomes.read(Path(file), only).items():
            found.setdefault(name, []).extend(seeds)
    from_files = set(found)
    asked = [(name, [folder]) for name, folder in map(_split, given) if folder not in kept]
    for one in named:
        name, folders = _split(one)
        if not name:
            raise SetupError(f"--group {one}: give NAME=FOLDER,FOLDER,...")
        asked.append((name, [folder for folder in folders.split(",") if folder]))
    for name, members in asked:
        stored = [evaluations.find(Path(folder), only) for folder in members]
        name = name or stored[0].name
        if name in found and name not in from_files:
            raise SetupError(f"{name} is given twice: give each its own name (NAME=FOLDER)")
        found.setdefault(name, []).extend(stored)
    for name in who:
        if name not in found:
            raise SetupError(f"--who {name}: there are {', '.join(found)}")
    if who:
        found = {name: own for name, own in found.items() if name in (against, *who)}
    if len(found) < 2 or not all(found.values()):
        raise SetupError(f"give two evaluations or more, found: {', '.join(found) or 'none'}")
    if against is not None and against not in found:
        raise SetupError(f"--against {against}: there are {', '.join(found)}")
    return [Group(name, found[name]) for name in sorted(found, key=lambda one: one != against)]


def tables(found: Sequence[Group]) -> list[Table]:
    seeds = [comparison.by_seed(found)] if any(len(g.members) > 1 for g in found) else []
    return [comparison.rates(found), comparison.differences(found), *seeds]


def _split(given: str) -> tuple[str, str]:
    """A folder's name may hold a = itself."""
    name, sign, rest = given.partition("=")
    return (name, rest) if sign and not Path(given).exists() else ("", given)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=FOLDER,FOLDER,...")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="the tasks whose id matches, such as 'django__*'; may be given several times",
    )
    parser.add_argument(
        "--against", metavar="NAME", help="whom the others are compared with; else the first"
    )
    parser.add_argument(
        "--who",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one and --against; may be given several times (Holm counts the rows)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the tables as CSV files too")
    args = parser.parse_args()
    console = progress.console()
    try:
        with room_for(args.out or Path()):
            _compare(args, console)
    except SetupError as error:
        print(progress.plain(str(error)), file=sys.stderr)
        raise SystemExit(2) from None


def _compare(args: argparse.Namespace, console: Console) -> None:
    found = groups(args.folders, args.group, tuple(args.only), args.against, args.who)
    made = tables(found)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)  # before anything is printed
    for warning in comparison.warnings(found):
        console.print(progress.plain(f"Warning: {warning}"), style="yellow")
    for table in made:
        terminal.show(console, table)
    if args.out:
        for table in (*made, outcomes.table(found)):
            console.print(str(table.write_csv(args.out)))


if __name__ == "__main__":
    main()
