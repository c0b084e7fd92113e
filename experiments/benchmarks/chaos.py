"""The cost of faults: small real runs are disturbed and compared with an undisturbed one.

    python -m experiments.benchmarks.chaos [FILE.md] [--times 50] [--only NAME]

Measured: for each kind of fault, what is lost, what is there twice, what is left behind, whether
the final weights are the same, and the extra time. Each fault hits a separate run (tests/chaos
explains its parts), which is then started again until it is done. The result is a Markdown table,
printed as it grows.

It needs a checkout, and root for the fault "full disk".
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.chaos.driver import Job, Run
    from tests.support.chaos.faults import Arena, Cost

Fault = Callable[["Arena", "Job", int], "list[Run]"]
HEAD = "| fault | times | lost | doubled | left over | same weights | extra time, median | max |"


def main() -> None:
    from tests.support.chaos.faults import Arena
    from tests.support.warm import WarmInterpreter

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help="also write the table to this file")
    parser.add_argument("--times", type=int, default=50, help="how often each fault is injected")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="only faults whose name contains this"
    )
    args = parser.parse_args()
    lines = [HEAD, "|---|---|---|---|---|---|---|---|"]
    interpreter = WarmInterpreter()
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(Path(folder), interpreter)
        count = len(arena.undisturbed.episodes)
        print(
            f"undisturbed: {arena.undisturbed.seconds:.1f} s, {count} episodes and labels",
            file=sys.stderr,
            flush=True,
        )
        for name, (times, fault) in faults(arena, args.times).items():
            if args.only in name:
                lines.append(row(name, [measure(arena, fault, n) for n in range(times)]))
                print(lines[-1], file=sys.stderr, flush=True)
        text = "\n".join(lines) + "\n"
        if args.file:
            args.file.write_text(text)
        print(text)
        interpreter.close()


def faults(arena: Arena, times: int) -> dict[str, tuple[int, Fault]]:
    """By name: how often the fault is injected, and the function that injects it."""
    from tests.support.chaos import faults as inject

    few = max(1, times // 10)
    points = inject.kills(arena, times)
    kinds: dict[str, tuple[int, Fault]] = {
        "kill -9 of the run, at any moment or write": (
            times,
            lambda arena, job, n: inject.kill(arena, job, points[n]),
        ),
        "Ctrl-C once": (
            few,
            lambda arena, job, n: inject.interrupt(arena, job, (n + 1) / (few + 1), False),
        ),
        "Ctrl-C twice": (
            few,
            lambda arena, job, n: inject.interrupt(arena, job, (n + 1) / (few + 1), True),
        ),
        "kill -9 of 2 sandboxes, grading ones included": (
            few,
            lambda arena, job, n: inject.lose_sandboxes(job, 2, 0.2 + 0.1 * n),
        ),
        "kill -9 of the process that creates sandboxes, twice": (
            few,
            lambda arena, job, n: inject.lose_nursery(job, 2, 0.2 + 0.1 * n),
        ),
        "a sandbox hangs": (
            max(1, few // 2),
            lambda arena, job, n: inject.lose_sandboxes(job, 1, 0.3 + 0.2 * n, signal.SIGSTOP),
        ),
    }
    if os.geteuid() == 0:
        kinds["full disk, at an episode and at a checkpoint"] = (max(1, few // 2), _full_disk)
    return kinds


def _full_disk(arena: Arena, job: Job, number: int) -> list[Run]:
    from tests.support.chaos import faults as inject

    disk = job.folder / "disk"
    with inject.mounted(disk):
        job.mounts = {str(disk)}
        runs = inject.full_disk(arena, job, disk)
        job.keep()
    return runs


def measure(arena: Arena, fault: Fault, number: int) -> Cost:
    job = arena.job()
    runs = fault(arena, job, number)
    cost = arena.cost(job, runs)
    line = f"  {number}: {len(runs)} starts, {cost.seconds:+.1f} s, harmless: {cost.harmless}"
    print(line, file=sys.stderr, flush=True)
    if not cost.harmless:
        print(f"not harmless, number {number}: {cost}", file=sys.stderr, flush=True)
    return cost


def row(name: str, costs: list[Cost]) -> str:
    seconds = [cost.seconds for cost in costs]
    same = sum(cost.same_weights for cost in costs)
    cells = (
        name,
        len(costs),
        sum(len(cost.lost) for cost in costs),
        sum(cost.doubled for cost in costs),
        sum(len(cost.orphans) + len(cost.scraps) for cost in costs),
        f"{same} of {len(costs)}",
        f"{statistics.median(seconds):.1f} s",
        f"{max(seconds):.1f} s",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
