"""How often does the two-level bootstrap's interval hold the truth?

    python -m experiments.benchmarks.interval_coverage

Two methods that are equally good in expectation are simulated on the same seeds and tasks: a coin
for each cell whose chance is 0.35 plus effects, of the task, of the task in one method, of the seed
in one method. Prints how often the 95 % interval of their paired difference holds 0; what it leaves
out is also how often p falls below 0.05.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from experiments.results.statistics import bootstrap_difference


@dataclass(frozen=True)
class Setting:
    """``seed_effect`` and ``task_effect``: standard deviations of what is a method's own."""

    seeds: int
    tasks: int
    seed_effect: float
    task_effect: float


SETTINGS = [
    Setting(seeds, tasks, own, task)
    for seeds, tasks in ((1, 56), (3, 56), (5, 100), (10, 200))
    for own, task in ((0.0, 0.0), (0.03, 0.1), (0.1, 0.1))
]


def covered(setting: Setting, trials: int, resamples: int = 1000) -> float:
    """The share of ``trials`` in which the interval holds 0."""
    rng, held = np.random.default_rng(0), 0
    for trial in range(trials):
        level = 0.35 + rng.normal(0, 0.25, (1, 1, setting.tasks))
        level = level + rng.normal(0, setting.task_effect, (2, 1, setting.tasks))
        level = level + rng.normal(0, setting.seed_effect, (2, setting.seeds, 1))
        played = rng.random((2, setting.seeds, setting.tasks)) < level
        found = bootstrap_difference(*played.astype(float), resamples=resamples, seed=trial)
        held += found.low <= 0 <= found.high
    return held / trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("| seeds | tasks | seed effect | task effect | interval holds the truth |")
    print("|---" * 5 + "|")
    for one in SETTINGS:
        cells = (one.seeds, one.tasks, one.seed_effect, one.task_effect)
        print(f"| {' | '.join(map(str, cells))} | {covered(one, trials):.1%} |", flush=True)


if __name__ == "__main__":
    main()
