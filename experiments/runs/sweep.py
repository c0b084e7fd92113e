"""The folder of a sweep: which runs it is made of, and how far each of them is.

    runs/sweep-<hash of its runs>/
      sweep.json      {"command", "cells": [{"overrides", "run", "status", "error"}]}

``run`` names the folder of a run beside the sweep's, ``overrides`` are its settings, ``status`` is
finished, failed, running or waiting, and ``error`` says why it failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.runs import layout
from experiments.runs.folders import RunFolder
from swe_gym_env.disk import read_json, write_json


def is_sweep(folder: Path) -> bool:
    return (folder / layout.SWEEP).is_file()


def read(folder: Path) -> dict[str, Any]:
    """Empty if ``folder`` is not a sweep's."""
    return read_json(folder / layout.SWEEP) or {}


def cells(folder: Path) -> list[dict[str, Any]]:
    """What the sweep says of each of its runs; empty if ``folder`` is not a sweep's."""
    return read(folder).get("cells", [])


def run_folders(folder: Path) -> list[Path]:
    """The folders of its runs, also of those that have not begun."""
    return [folder.parent / cell["run"] for cell in cells(folder)]


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[dict[str, Any]]:
    """sweep.json, to be changed by one process at a time. Readers need no lock."""
    with RunFolder(folder).lock(wait=True):
        data = read(folder)
        yield data
        write_json(folder / layout.SWEEP, data)
