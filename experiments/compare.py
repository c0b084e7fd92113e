"""Finished evaluations side by side: ``python -m experiments.compare FOLDER FOLDER ...``

A FOLDER is runs/evaluation-..., runs/RUN/evaluations/NAME, or a finished runs/RUN (its last one);
NAME=FOLDER calls it NAME. Each is compared with the first on the tasks that both have. Several
seeds of one method are a group: --group dagger=FOLDER,FOLDER,...; its interval is over both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.evaluation import comparison, terminal
from experiments.evaluation.comparison import Group
from experiments.evaluation.stored import Stored
from experiments.tables import Table
from swe_gym_env.errors import SetupError


def groups(folders: Sequence[str], named: Sequence[str], only: tuple[str, ...] = ()) -> list[Group]:
    """As they are given on the command line. Raises SetupError."""
    found = []
    for given in folders:
        name, folder = _split(given)
        one = Stored.find(Path(folder), only)
        found.append(Group(name or one.name, [one]))
    for given in named:
        name, members = _split(given)
        if not name:
            raise SetupError(f"--group {given}: give NAME=FOLDER,FOLDER,...")
        paths = [Path(member) for member in members.split(",") if member]
        found.append(Group(name, [Stored.find(path, only) for path in paths]))
    names = [group.name for group in found]
    if len(found) < 2 or len(set(names)) < len(names) or not all(g.members for g in found):
        raise SetupError(
            "give two evaluations or more, each once and under a name of its own (NAME=FOLDER); "
            f"found: {', '.join(names) or 'none'}"
        )
    return found


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
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the tables as CSV files too")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        found = groups(args.folders, args.group, tuple(args.only))
        made = tables(found)
    except SetupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    for warning in comparison.warnings(found):
        console.print(f"Warning: {warning}", style="yellow")
    for table in made:
        terminal.show(console, table)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for table in made:
            console.print(str(table.write_csv(args.out)))


if __name__ == "__main__":
    main()
