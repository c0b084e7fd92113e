"""A sweep has a folder, so that a killed one goes on and one page can compare its cells.

A cell is one run of the sweep; settings that lead to the same folder are one cell. The folder
(``experiments/runs/sweep.py``) also has Hydra's own multirun.yaml and the logs of jobs that
submitit starts. Every launcher's processes write there, each as its cell begins and ends. What
fails is recorded and reported, and the sweep goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from experiments.console.interrupt import INTERRUPTED
from experiments.results.statistics import Rate
from experiments.runs import sweep
from experiments.runs.folders import RunFolder, run_folder, runs
from experiments.runs.naming import digest
from swe_gym_env.disk import unwritable

OF = "run"  # Hydra's name of the command whose cells are runs: experiments.run

_started: list[Path] = []  # the folder of the sweep that this process launches


class Sweep(Callback):
    """Hydra calls it before the first cell."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _place(config)
        if config.hydra.job.name != OF:
            return
        try:
            cells = _cells(config)
        except (HydraException, OmegaConfBaseException):
            return  # Hydra reports it before the first run, or another sweeper understands it
        where = Path(cells[0].pop("runs"))
        folder = where / f"sweep-{digest(sorted(cell['run'] for cell in cells))}"
        with sweep.changing(folder) as data:
            data["command"] = shlex.join(["python", "-m", "experiments.run", *sys.argv[1:]])
            data["cells"] = [_standing(where, cell) for cell in cells]
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")  # for each cell
        _started.append(folder)


def _place(config: DictConfig) -> None:
    """Where Hydra writes, of any command: it would end in a traceback where it cannot."""
    where = runs(config)
    if problem := unwritable(where):
        print(f"\npaths.runs={config.paths.runs}: {problem}; give another folder", file=sys.stderr)
        raise SystemExit(2)
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(where / ".multirun")


def _cells(config: DictConfig) -> list[dict[str, Any]]:
    """As Hydra's sweeper will make them, without those that lead to the folder of one before."""
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(
        list(config.hydra.overrides.task)
    )
    found: dict[str, dict[str, Any]] = {}
    for given in _combinations(overrides):
        cfg = loader.load_sweep_config(config, given)
        overrides_of_run = list(cfg.hydra.overrides.task)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        run = run_folder(cfg)
        key = (run.inputs or {}).get("key", run.path.name)  # equal files in two places are one
        place = {"run": run.path.name, "runs": str(run.path.parent)}
        found.setdefault(key, {"overrides": overrides_of_run, **place})
    return list(found.values())


def _combinations(overrides: Iterable[Override]) -> Iterator[list[str]]:
    """The overrides of each run, in the order of Hydra's basic sweeper: all combinations of the
    listed values, of which the last is the fastest to change."""
    choices: dict[str, list[str]] = {}  # by key: the last override of a key counts
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise HydraException(f"{key}: only another sweeper than the basic one knows intervals")
    yield from map(list, itertools.product(*choices.values()))


def _standing(runs: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """What an earlier start of the sweep, or another process, has made of the cell."""
    run = RunFolder(runs / cell["run"])
    status = "finished" if run.summary else "running" if run.busy else "waiting"
    return {"overrides": cell["overrides"], "run": cell["run"], "status": status, "error": ""}


def _note(folder: Path, run: str, status: str, error: str = "") -> None:
    with sweep.changing(folder) as data:
        for cell in data["cells"]:
            if cell["run"] == run:
                cell.update(status=status, error=error)


@contextlib.contextmanager
def siblings() -> Iterator[list[Path]]:
    """The folders of the runs of the sweep that this process works on, of which no other begins
    meanwhile; [] of a single run."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    folder = Path(hydra.sweep.dir) if hydra and hydra.mode == RunMode.MULTIRUN else None
    if folder is None or not sweep.is_sweep(folder):
        yield []
        return
    with RunFolder(folder).lock(wait=True):
        yield sweep.run_folders(folder)


@contextlib.contextmanager
def cell(cfg: DictConfig) -> Iterator[bool]:
    """Around the work of a cell, whose errors end here; a single run is not touched. False: there
    is nothing to do, for it is finished, another process does it, or another cell is the same."""
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    cells = sweep.cells(folder) if hydra.mode == RunMode.MULTIRUN else []
    if not cells:
        yield True
        return
    run, given = run_folder(cfg), list(hydra.overrides.task)
    names = [c["run"] for c in cells]
    number = names.index(run.path.name) if run.path.name in names else None
    if number is None or cells[number]["overrides"] != given or run.summary or run.busy:
        yield False
        return
    print(f"\ncell {number + 1} of {len(cells)}: {_swept(cells, cells[number])}", flush=True)
    _note(folder, run.path.name, "running")
    try:
        yield True
    except CompactHydraException as error:  # its message stands on the terminal
        _note(folder, run.path.name, "failed", str(error))
    except Exception as error:
        traceback.print_exc()
        _note(folder, run.path.name, "failed", f"{type(error).__name__}: {error}")
    except BaseException:
        _note(folder, run.path.name, "waiting")
        raise
    else:
        _note(folder, run.path.name, "finished")


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Around a command: if it was a sweep, ends with a line for each cell, and with exit code 1 if
    one has failed."""
    try:
        yield
    except KeyboardInterrupt:  # in the launcher, while other processes work
        raise SystemExit(INTERRUPTED) from None
    finally:
        failed = [_report(folder) for folder in _started]
    if any(failed):
        raise SystemExit(1)


def _report(folder: Path) -> int:
    """How many have failed."""
    with sweep.changing(folder) as data:
        cells = data["cells"]
        for one in cells:
            if one["status"] != "failed":  # a process that was killed could not say so
                one.update(_standing(folder.parent, one))
    lines = [""]
    for one in cells:
        where = os.path.relpath(folder.parent / one["run"])
        lines.append(
            f"{one['status']:<9} {_resolved(folder.parent, one):<34} {where}  {_swept(cells, one)}"
        )
        lines += [f"          {line}" for line in one["error"].splitlines()[:2]]
    lines.append(f"compare: python -m experiments.report {os.path.relpath(folder)}")
    if any(one["status"] != "finished" for one in cells):
        lines.append(f"go on:   {data['command']}")
    print("\n".join(lines), flush=True)
    return sum(one["status"] == "failed" for one in cells)


def _swept(cells: list[dict[str, Any]], one: dict[str, Any]) -> str:
    """The settings in which the cells differ."""
    fixed = set.intersection(*(set(cell["overrides"]) for cell in cells))
    return " ".join(given for given in one["overrides"] if given not in fixed)


def _resolved(runs: Path, cell: dict[str, Any]) -> str:
    claim = RunFolder(runs / cell["run"]).summary
    if not claim:
        return ""
    last = claim["evaluations"][-1]
    rate = Rate(last["resolved"], last["n"], last["low"], last["high"])
    return f"{rate.resolved} of {rate.n}, {rate}"
