"""Build tasks, count them, or record them: ``python -m swe_gym_env.tasks.pypi COMMAND``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from swe_gym_env.errors import SWEGymError
from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi import listed, stats
from swe_gym_env.tasks.pypi.build import Progress, build, find
from swe_gym_env.tasks.pypi.catalog import CORE, PACKAGES, Package
from swe_gym_env.tasks.pypi.recording import record
from swe_gym_env.tasks.pypi.splits import SPLITS

EVERY = 5.0  # seconds between two lines of progress if the output is not a terminal


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m swe_gym_env.tasks.pypi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="build what is missing and print what there is")
    which = make.add_mutually_exclusive_group()
    which.add_argument(
        "--package",
        action="append",
        metavar="NAME[==VERSION]",
        help=f"may be repeated; any package of PyPI. Default: {', '.join(CORE)}",
    )
    which.add_argument(
        "--all", action="store_true", help=f"the whole catalog, {len(PACKAGES)} packages"
    )
    make.add_argument(
        "--with",
        dest="requires",
        action="append",
        default=[],
        metavar="REQUIREMENT",
        help="what the suite of --package needs beside pytest",
    )
    for split in SPLITS:
        make.add_argument(f"--{split}", type=int, metavar="N", help=f"tasks of the split {split}")
    make.add_argument(
        "--bugs",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="how many bugs a task holds, in turn: 1 1 2 makes every third one of two bugs",
    )
    make.add_argument("--max-function-lines", type=int, metavar="N")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument(
        "--anew", action="store_true", help="try also the bugs that the project's list knows"
    )
    note = commands.add_parser(
        "record", help="try the bugs of the usual sets, and write the list for this Python"
    )
    note.add_argument("--out", type=Path, default=listed.path(), help="default: %(default)s")
    for command in (make, note):
        command.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    commands.add_parser("stats", help="valid tasks by package, kind of bug, split, difficulty")
    return parser


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress: a bar if rich is installed and the output is a terminal, else a line at times."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        rich = False
    else:
        rich = sys.stderr.isatty()
    if not rich:
        yield _lines()
        return
    from rich.console import Console

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("packages")
        yield lambda done, total, message: bar.update(
            row, completed=done, total=total, description=message
        )


def _lines() -> Progress:
    last = [0.0]

    def show(done: int, total: int, message: str) -> None:
        if done == total or time.monotonic() - last[0] > EVERY:
            last[0] = time.monotonic()
            print(f"{done}/{total} {message}", file=sys.stderr, flush=True)

    return show


def run_build(options: argparse.Namespace) -> None:
    asked = {split: getattr(options, split) for split in SPLITS}
    given = {split: count for split, count in asked.items() if count is not None}
    counts = {split: given.get(split, 0) for split in SPLITS} if given else None
    packages: list[Package] | Literal["all"] | None = "all" if options.all else None
    if options.package:
        packages = [find(name, options.requires) for name in options.package]
    started = time.monotonic()
    with shown() as progress:
        rows = build(
            packages,
            counts=counts,
            max_function_lines=options.max_function_lines,
            bugs=options.bugs,
            workers=options.workers,
            seed=options.seed,
            progress=progress,
            anew=options.anew,
        )
    seconds = time.monotonic() - started
    splits = Counter(row["split"] for row in rows)
    shares = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
    print(f"{len(rows)} tasks ({shares}) in {seconds:.0f} s, in {home() / 'tasks' / 'pypi'}")


def run_record(options: argparse.Namespace) -> None:
    with shown() as progress:
        count = record(options.out, workers=options.workers, progress=progress)
    print(f"{count} bugs in {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")


COMMANDS = {"build": run_build, "stats": lambda _: stats.show(), "record": run_record}


def main() -> int:
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        COMMANDS[options.command](options)
    except SWEGymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
