"""How often the interval of the two-level bootstrap contains the true difference.

    python -m experiments.benchmarks.interval_coverage

Measured: in simulations of two algorithms that are equally good in expectation, on the same seeds
and tasks, how often the 95 % interval of their paired difference contains 0. It should be 95 %; the
rest is how often p falls below 0.05. Each run is a coin whose chance is 0.35 plus random effects of
the task, of the task in one algorithm, and of the seed in one algorithm.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass

import numpy as np

from experiments.results.statistics import bootstrap_difference


@dataclass(frozen=True)
class Setting:
    """One simulated experiment.

    Attributes:
        seeds: Number of seeds per algorithm.
        tasks: Number of tasks.
        seed_effect: Standard deviation of the effect of a seed in one algorithm.
        task_effect: Standard deviation of the effect of a task in one algorithm.
    """

    seeds: int
    tasks: int
    seed_effect: float
    task_effect: float


SETTINGS = [
    Setting(seeds, tasks, seed_effect, task_effect)
    for seeds, tasks in ((1, 56), (3, 56), (5, 100), (10, 200))
    for seed_effect, task_effect in ((0.0, 0.0), (0.03, 0.1), (0.1, 0.1))
]


def covered(setting: Setting, trials: int, resamples: int = 1000) -> float:
    """The share of ``trials`` in which the interval contains 0."""
    rng, covering = np.random.default_rng(0), 0
    for trial in range(trials):
        level = 0.35 + rng.normal(0, 0.25, (1, 1, setting.tasks))
        level = level + rng.normal(0, setting.task_effect, (2, 1, setting.tasks))
        level = level + rng.normal(0, setting.seed_effect, (2, setting.seeds, 1))
        played = rng.random((2, setting.seeds, setting.tasks)) < level
        interval = bootstrap_difference(*played.astype(float), resamples=resamples, seed=trial)
        covering += interval.low <= 0 <= interval.high
    return covering / trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("| seeds | tasks | seed effect | task effect | interval contains the truth |")
    print("|---" * 5 + "|")
    for setting in SETTINGS:
        cells = " | ".join(map(str, astuple(setting)))
        print(f"| {cells} | {covered(setting, trials):.1%} |", flush=True)


if __name__ == "__main__":
    main()
