"""What experiments.plan foretells, beside what really happened, in processor seconds.

    python -m experiments.benchmarks.plan_accuracy [--only NAME]

For each set-up: this machine is calibrated, then the run is run, both in a control group of their
own, which counts the processor seconds of boxes too (cgroup v1 or v2; only root may make one). The
plan is made twice: from what conf/plan assumes of the agents, and with the turns and tokens of the
run's own metrics.json, which leaves the speeds alone to be judged. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.cli import CONF
from experiments.plan.calibrate import calibrate
from experiments.plan.known import Facts
from experiments.plan.phases import Phase, Planner
from experiments.progress import Display

SMALL = ("rounds=1", "iteration0.epochs=1", "paths.runs={runs}", "workers.threads=1")
SETUPS: dict[str, tuple[str, ...]] = {
    "label every state": (
        *("iteration0.episodes=16", "episodes_per_round=8", "evaluation.tasks=8"),
        *("beta=constant", "beta.start=0.5"),
    ),
    "groups of tries": (
        *("algorithm=grpo", "iteration0.episodes=20", "episodes_per_round=2"),
        *("evaluation.tasks=4", "workers.concurrency=6", "serving.wave=6"),
    ),
    "demonstrations": (
        *("algorithm=sft", "iteration0.episodes=12", "episodes_per_round=12"),
        *("evaluation.tasks=12", "training.batch_size=8", "workers.concurrency=16"),
    ),
    "an evaluation": ("evaluation.tasks=24", "sampling.max_new_tokens=96", "serving.wave=8"),
}
ALONE = "an evaluation"  # by experiments.evaluate


@dataclass(frozen=True)
class Group:
    """A control group of our own that counts processor time."""

    path: Path

    def seconds(self) -> float:
        usage = self.path / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        stat = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e6

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def group() -> Iterator[Group]:
    root = Path("/sys/fs/cgroup")
    root = root / "cpuacct" if (root / "cpuacct").is_dir() else root
    path = root / f"swe-gym-plan-{os.getpid()}"
    path.mkdir()
    try:
        yield Group(path)
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


def configuration(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=overrides)


def measured(name: str, overrides: list[str], runs: Path) -> tuple[dict[str, float], Path]:
    """Processor seconds of each phase of a real run, and its folder."""
    module = "experiments.evaluate" if name == ALONE else "experiments.run"
    with group() as counted:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *overrides],
            preexec_fn=counted.enter,
            stdout=subprocess.DEVNULL,
        )
        found: dict[str, float] = {}
        before = 0.0
        while process.poll() is None:
            time.sleep(0.1)
            for path in runs.glob("*/phases.json"):
                with contextlib.suppress(ValueError):
                    for phase in json.loads(path.read_text()):
                        if phase not in found:
                            now = counted.seconds()
                            found[phase], before = now - before, now
        if process.returncode:
            raise SystemExit(f"{name}: the run ended with {process.returncode}")
        if name == ALONE:
            found["evaluate untrained"] = counted.seconds()
    (folder,) = (p.parent for p in runs.glob("*/config.yaml") if "iteration0-" not in str(p))
    return found, folder


def foretold(cfg: DictConfig, name: str, facts: Facts) -> list[Phase]:
    planner = Planner(cfg, 0, facts)
    return [planner.first()] if name == ALONE else planner.run()


def facts_of(folder: Path, name: str) -> Facts:
    if name == ALONE:
        return Facts({"evaluate untrained": json.loads((folder / "metrics.json").read_text())})
    return Facts.of(str(folder))


def calibrated(overrides: list[str]) -> None:
    """In a process of its own, so that loading the libraries is measured too."""
    code = "from experiments.benchmarks.plan_accuracy import measure; measure()"
    with group() as counted:
        command = [sys.executable, "-c", code, str(counted.path), *overrides]
        subprocess.run(command, check=True, preexec_fn=counted.enter)


def measure() -> None:
    """In that process; its arguments are the folder of its control group, then the overrides."""
    counted = Group(Path(sys.argv[1]))
    calibrate(configuration(sys.argv[2:]), Display(), counted.seconds)


def compare(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        small = () if name == ALONE else SMALL
        overrides = [o.format(runs=runs) for o in (*small, *SETUPS[name])]
        if name == ALONE:
            overrides += [f"paths.runs={runs}", "workers.threads=2"]
        calibrated(overrides)
        real, run = measured(name, overrides, runs)
        cfg = configuration([*overrides, "plan.clock=processor"])
        guessed = {p.name: p.seconds for p in foretold(cfg, name, Facts())}
        told = {p.name: p.seconds for p in foretold(cfg, name, facts_of(run, name))}
    print(f"\n**{name}** (`{' '.join(SETUPS[name])}`)\n")
    print("| phase | measured | from assumptions | off | with the run's turns and tokens | off |")
    print("|---|---|---|---|---|---|")
    for phase in [*(p for p in real if p in told), "all"]:
        one = [sum(side.values()) for side in ({p: real[p] for p in told}, guessed, told)]
        if phase != "all":
            one = [real[phase], guessed[phase], told[phase]]
        off = [f"{value / one[0] - 1:+.0%}" for value in one[1:]]
        print(f"| {phase} | {one[0]:.1f} | {one[1]:.1f} | {off[0]} | {one[2]:.1f} | {off[1]} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SETUPS, action="append")
    for name in parser.parse_args().only or SETUPS:
        compare(name)


if __name__ == "__main__":
    main()
