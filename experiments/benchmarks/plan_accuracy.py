"""How close the times that experiments.plan predicts are to those of real runs, phase by phase.

    python -m experiments.benchmarks.plan_accuracy RUN_FOLDER ...   finished runs
    python -m experiments.benchmarks.plan_accuracy --run FOLDER     calibrate, and make small runs

Measured: the relative error of two plans for each phase of a run: one from what a plan assumes
about the agents, and one with the turns and tokens of the run's own episodes, which tests the model
of the machine alone. Speeds are those of the last calibration, or the defaults of
experiments/plan/hardware.py. Times are wall times, so nothing else should run meanwhile. The result
is Markdown tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.console.cli import CONF
from experiments.plan import config as _config  # noqa: F401  (stores the section `plan`)
from experiments.plan.known import Facts
from experiments.plan.phases import Planner
from experiments.runs.folders import RunFolder
from experiments.runs.reader import load_config

SMALL = ("rounds=1", "iteration0.epochs=1")
SETUPS = (
    ("beta=constant", "beta.start=0.5", "iteration0.episodes=16", "evaluation.tasks=16"),
    ("algorithm=grpo", "iteration0.episodes=24", "episodes_per_round=4", "serving.batch_size=8"),
    ("algorithm=sft", "iteration0.episodes=12", "workers.threads=1", "workers.concurrency=8"),
)


def run(folder: Path) -> list[Path]:
    """Calibrate this machine and run the small set-ups; returns their run folders."""
    before: set[Path] = set()
    folders = []
    for setup in SETUPS:
        overrides = [f"paths.runs={folder}", *SMALL, *setup]
        plan = [sys.executable, "-m", "experiments.plan", "plan.calibrate=true", *overrides]
        subprocess.run(plan, check=True)
        subprocess.run([sys.executable, "-m", "experiments.run", *overrides], check=True)
        now = {path for path in folder.glob("*/") if RunFolder(path).summary}
        folders += sorted(now - before)
        before = now
    return folders


def configuration(run: Path) -> DictConfig:
    """The configuration of a run, with sections that older runs lack."""
    cfg = load_config(run)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        new = compose("planner", overrides=[f"model={cfg.model.name}"])
    cfg.plan, cfg.cluster = new.plan, new.cluster
    return cfg


def compare(run: Path) -> None:
    cfg, real = configuration(run), RunFolder(run).phases
    sides = [
        {phase.name: phase.seconds for phase in Planner(cfg, 0, facts).run()}
        for facts in (Facts(), Facts.of(str(run)))
    ]
    shared = [phase for phase in real if phase in sides[0]]
    rounds = [phase for phase in shared if not phase.endswith(("untrained", "iteration0", "_000"))]
    print(f"\n**{run.name}** (teacher {cfg.teacher.name})\n")
    print("| phase | measured s | from assumptions | error | with its turns and tokens | error |")
    print("|---|---|---|---|---|---|")
    groups = [(phase, [phase]) for phase in shared] + [("rounds", rounds), ("all", shared)]
    for name, phases in groups:
        took, *planned = (sum(side[phase] for phase in phases) for side in (real, *sides))
        if took:
            cells = " | ".join(f"{value:.0f} | {value / took - 1:+.0%}" for value in planned)
            print(f"| {name} | {took:.0f} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--run", type=Path, help="make small runs in this folder first")
    args = parser.parse_args()
    for folder in [*args.runs, *(run(args.run.absolute()) if args.run else [])]:
        compare(folder)


if __name__ == "__main__":
    main()
