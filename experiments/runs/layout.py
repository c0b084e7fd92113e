"""The layout of a run folder: the names of its files and folders, and what those names mean.

Only the modules of ``experiments/runs`` use these names, and a test holds all others to that. What
each file holds is written down in docs/reference/run-folder.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from swe_gym_env.disk import read_json
from swe_gym_env.errors import SetupError

# Files of a run folder
FORMAT = "format.json"
CONFIG = "config.yaml"
VERSIONS = "versions.json"
TASKS = "tasks.json"
PHASES = "phases.json"
SUMMARY = "summary.json"
SWEEP = "sweep.json"  # of a sweep's folder
REPORT_PAGE = "report.html"
REPORT_FIGURES = "report.png"
EPISODES_PAGE = "episodes.html"
LOCK = ".lock"
# Files of a round or an evaluation (``swe_gym_env/rollout/store.py`` reads and writes them)
EPISODES = "episodes.jsonl"
SCORES = "scores.jsonl"
METRICS = "metrics.json"
# Folders of a run folder
ROUNDS = "rounds"
EVALUATIONS = "evaluations"
ANALYSIS = "analysis"
TABLES = "tables"
# Folder of a round
CHECKPOINT = "checkpoint"

# 1: folders without format.json; a turn's actor is called "executor" there. 2: this version.
VERSION = 2

# Evaluations that come before those of the rounds, in the order of training
UNTRAINED, ITERATION0 = "untrained", "iteration0"
FIRST = (UNTRAINED, ITERATION0)


def check_format(folder: Path) -> None:
    """Raises SetupError if a newer version of this project wrote ``folder``."""
    found = (read_json(folder / FORMAT) or {}).get("format", 1)
    if not isinstance(found, int) or found > VERSION:
        raise SetupError(
            f"{folder / FORMAT}: the run folder has format {found}, and this version reads formats "
            f"1 to {VERSION}. Use the version of this project that wrote it (see {VERSIONS} there) "
            "or a newer one"
        )


def round_name(index: int) -> str:
    """The name of a round's folder, and of the evaluation after it."""
    return f"round_{index:03d}"


def round_number(name: str) -> int | None:
    """The inverse of :func:`round_name`; None if ``name`` is not the name of a round."""
    found = re.fullmatch(r"round_(\d+)", name)
    return int(found[1]) if found else None


def evaluation_round(name: str) -> int | None:
    """After which round an evaluation came: 0 is iteration 0. None: the untrained student, or an
    evaluation that belongs to no round."""
    return 0 if name == ITERATION0 else round_number(name)


def evaluation_label(name: str) -> str:
    """How tables and pages call the student that the evaluation ``name`` measured."""
    fixed = {UNTRAINED: "untrained student", ITERATION0: "SFT (iteration 0)"}
    number = round_number(name)
    return fixed.get(name) or (name if number is None else f"after round {number}")


def evaluation_name(folder: Path) -> str:
    """A name for the measured student: the evaluation's folder, after its run's if it has one."""
    if folder.parent.name == EVALUATIONS:
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name


def round_folders(run: Path) -> list[Path]:
    """All rounds that have begun, in order."""
    found = [path for path in (run / ROUNDS).glob("round_*") if round_number(path.name) is not None]
    return sorted(found, key=lambda path: round_number(path.name) or 0)


def evaluation_folders(run: Path) -> Iterator[Path]:
    """All folders with the episodes of an evaluation: those of a run, those that runs share in the
    folder of iteration 0, and the folder of an evaluation that is not part of a run."""
    for pattern in (f"{EVALUATIONS}/*/", f"{EVALUATIONS}/*/*/", ""):
        yield from (path.parent for path in run.glob(f"{pattern}{EPISODES}"))


def home_of(path: Path, run: Path) -> Path:
    """The run folder that ``path`` lies in once links are followed, because shared parts such as
    iteration 0 have their own folder; ``run`` if it lies in none."""
    above = (folder for folder in path.resolve().parents if (folder / CONFIG).is_file())
    return next(above, run)


def is_configured(folder: Path) -> bool:
    """``folder`` has the configuration of a run or an evaluation."""
    return (folder / CONFIG).is_file()


def has_episodes(folder: Path) -> bool:
    """``folder`` is that of a round or an evaluation."""
    return (folder / EPISODES).is_file()


def has_run(folder: Path) -> bool:
    """``folder`` has rounds or evaluations."""
    return (folder / ROUNDS).is_dir() or (folder / EVALUATIONS).is_dir()


def is_evaluation(folder: Path) -> bool:
    """An evaluation that is not part of a run has both: episodes and a configuration."""
    return has_episodes(folder) and is_configured(folder)
