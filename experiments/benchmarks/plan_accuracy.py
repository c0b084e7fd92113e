"""What experiments.plan foretells, beside what really happened, in processor seconds.

    python -m experiments.benchmarks.plan_accuracy FOLDER [--only NAME ...]

Before each set-up and after the last one this machine is calibrated, so that each run lies between
two calibrations, whose plans are averaged. All is done in control groups of their own, which count
the processor seconds of boxes too (cgroup v1 or v2; only root may make one). The plan is made
twice: from what conf/plan assumes of the agents, and with the turns and tokens of the run's own
episodes, which leaves the model of the machine alone to be judged. What was measured stays in
FOLDER and is not measured again. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.cli import CONF
from experiments.folders import write_json
from experiments.plan.calibrate import calibrate
from experiments.plan.known import Facts, Seen
from experiments.plan.phases import Planner
from experiments.progress import Display

COMMON = ("workers.threads=1", "plan.clock=processor")
SMALL = ("rounds=1", "iteration0.epochs=1")
SETUPS: dict[str, tuple[str, ...]] = {
    "evaluation": ("evaluation.tasks=16", "serving.wave=8"),  # alone, by experiments.evaluate
    "demonstrations": (
        *("algorithm=sft", "iteration0.episodes=8", "episodes_per_round=12", *SMALL),
        *("evaluation.tasks=6", "training.batch_size=8", "workers.concurrency=6"),
    ),
    "groups": (
        *("algorithm=grpo", "iteration0.episodes=12", "episodes_per_round=2", *SMALL),
        *("evaluation.tasks=4", "serving.wave=8"),
    ),
    "labels": (
        *("iteration0.episodes=16", "episodes_per_round=8", "evaluation.tasks=8", *SMALL),
        *("beta=constant", "beta.start=0.5"),
    ),
}
ALONE = "evaluation"
FIRST = "evaluate untrained"


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


def calibrated(file: Path) -> None:
    """In a process of its own, so that loading the libraries is measured too."""
    if file.exists():
        return
    code = "from experiments.benchmarks.plan_accuracy import measure; measure()"
    with group() as counted:
        command = [sys.executable, "-c", code, str(counted.path), f"plan.calibration={file}"]
        subprocess.run([*command, *COMMON], check=True, preexec_fn=counted.enter)


def measure() -> None:
    """In that process; its arguments are the folder of its control group, then the overrides."""
    counted = Group(Path(sys.argv[1]))
    calibrate(configuration(sys.argv[2:]), Display(), counted.seconds)


def happened(name: str, runs: Path) -> dict[str, float]:
    """Processor seconds of each phase of a real run."""
    kept = runs / "measured.json"
    if kept.exists():
        return json.loads(kept.read_text())
    module = "experiments.evaluate" if name == ALONE else "experiments.run"
    command = [sys.executable, "-m", module, *SETUPS[name], *COMMON, f"paths.runs={runs}"]
    found: dict[str, float] = {}
    with group() as counted:
        process = subprocess.Popen(
            command, preexec_fn=counted.enter, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = 0.0
        while process.poll() is None:
            time.sleep(0.1)
            for path in runs.glob("*/phases.json"):
                with contextlib.suppress(ValueError):
                    for phase in json.loads(path.read_text()):
                        if phase not in found:
                            now = counted.seconds()
                            found[phase], before = now - before, now
        if name == ALONE:
            found[FIRST] = counted.seconds()
    if process.returncode:
        raise SystemExit(f"{name}: the run ended with {process.returncode}")
    write_json(kept, found)
    return found


def foretold(name: str, calibrations: list[Path], facts: Facts) -> dict[str, float]:
    """Seconds of each phase, the mean over the calibrations."""
    sums: dict[str, float] = {}
    for file in calibrations:
        planner = Planner(
            configuration([*SETUPS[name], *COMMON, f"plan.calibration={file}"]), 0, facts
        )
        for phase in [planner.first()] if name == ALONE else planner.run():
            sums[phase.name] = sums.get(phase.name, 0.0) + phase.seconds / len(calibrations)
    return sums


def facts_of(name: str, runs: Path) -> Facts:
    (run,) = (p.parent for p in runs.glob("*/config.yaml") if "iteration0-" not in str(p))
    return Facts({FIRST: Seen.of(run)}) if name == ALONE else Facts.of(str(run))


def compare(name: str, runs: Path, calibrations: list[Path]) -> None:
    real = happened(name, runs)
    guessed = foretold(name, calibrations, Facts())
    told = foretold(name, calibrations, facts_of(name, runs))
    shared = [phase for phase in real if phase in told]
    print(f"\n**{name}**: `{' '.join(SETUPS[name])}`\n")
    print("| phase | measured | from assumptions | off | with the run's turns and tokens | off |")
    print("|---|---|---|---|---|---|")
    for phase in [*shared, "all"]:
        which = shared if phase == "all" else [phase]
        row = [sum(side[one] for one in which) for side in (real, guessed, told)]
        off = [f"{value / row[0] - 1:+.0%}" for value in row[1:]]
        print(f"| {phase} | {row[0]:.1f} | {row[1]:.1f} | {off[0]} | {row[2]:.1f} | {off[1]} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SETUPS, nargs="+")
    given = parser.parse_args()
    folder, names = given.folder.absolute(), given.only or list(SETUPS)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"calibration-{place}.json" for place in range(len(names) + 1)]
    for name, file in zip(names, files, strict=False):
        calibrated(file)
        (folder / name).mkdir(exist_ok=True)
        happened(name, folder / name)
    calibrated(files[-1])
    for place, name in enumerate(names):
        compare(name, folder / name, files[place : place + 2])


if __name__ == "__main__":
    main()
