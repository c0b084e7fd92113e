"""What experiments.plan foretells, beside the phases of runs that have been.

    python -m experiments.benchmarks.plan_accuracy RUN_FOLDER ...   finished runs
    python -m experiments.benchmarks.plan_accuracy --run FOLDER     calibrate, and run small ones

The plan is made twice: from what conf/plan assumes of the agents, and with the turns and tokens of
the run's own episodes, which leaves the model of the machine alone to be judged. Speeds are those
of the last calibration, or the defaults of experiments/plan/hardware.py. Wall time: nothing else
should have run beside. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.console.cli import CONF
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
    """Calibrates this machine and runs the small set-ups; their run folders."""
    before: set[Path] = set()
    found = []
    for setup in SETUPS:
        given = [f"paths.runs={folder}", *SMALL, *setup]
        plan = [sys.executable, "-m", "experiments.plan", "plan.calibrate=true", *given]
        subprocess.run(plan, check=True)
        subprocess.run([sys.executable, "-m", "experiments.run", *given], check=True)
        now = {path for path in folder.glob("*/") if RunFolder(path).summary}
        found += sorted(now - before)
        before = now
    return found


def configuration(run: Path) -> DictConfig:
    """The run's own, with the sections that it may be too old to have."""
    cfg = load_config(run)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        new = compose("config", overrides=[f"model={cfg.model.name}"])
    cfg.plan, cfg.cluster = new.plan, new.cluster
    return cfg


def compare(run: Path) -> None:
    cfg, real = configuration(run), RunFolder(run).phases
    sides = [
        {phase.name: phase.seconds for phase in Planner(cfg, 0, facts).run()}
        for facts in (Facts(), Facts.of(str(run)))
    ]
    shared = [phase for phase in real if phase in sides[0]]
    own = [phase for phase in shared if not phase.endswith(("untrained", "iteration0", "_000"))]
    print(f"\n**{run.name}** (teacher {cfg.teacher.name})\n")
    print("| phase | measured s | from assumptions | off | with its turns and tokens | off |")
    print("|---|---|---|---|---|---|")
    for name, which in [(one, [one]) for one in shared] + [("rounds", own), ("all", shared)]:
        took, *told = (sum(side[phase] for phase in which) for side in (real, *sides))
        if took:
            cells = " | ".join(f"{value:.0f} | {value / took - 1:+.0%}" for value in told)
            print(f"| {name} | {took:.0f} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--run", type=Path)
    given = parser.parse_args()
    for folder in [*given.runs, *(run(given.run.absolute()) if given.run else [])]:
        compare(folder)


if __name__ == "__main__":
    main()
