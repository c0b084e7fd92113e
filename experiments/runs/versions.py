"""What it takes to make a run again: its command, the commit, the packages, the machine.

Written when the run begins, because the report may be written on another machine years later.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

PACKAGES = (
    "swe-gym-env",
    "gymnasium",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "hydra-core",
    "swebench",
)
ROOT = Path(__file__).resolve().parents[2]


def now() -> dict[str, Any]:
    """Of this process. ``commit`` is None outside a git checkout, ``changed`` whether files of the
    checkout differ from it."""
    head = _git("rev-parse", "HEAD")
    return {
        "command": command(),
        "commit": head,
        "changed": bool(head and _git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
    }


def command() -> str:
    """A run of a sweep has its own: its overrides, not those of the whole sweep."""
    if HydraConfig.initialized():
        config = HydraConfig.get()
        overrides = list(config.overrides.task)
        return shlex.join(["python", "-m", f"experiments.{config.job.name}", *overrides])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def add(listed: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """``listed`` and, where it differs from the last of them, the present."""
    found, present = list(listed or ()), now()
    return found if found and found[-1] == present else [*found, present]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
