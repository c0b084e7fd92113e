"""What all tests share: where caches and recorded data lie, and the plugins of this suite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.support.tiers", "tests.support.costs", "tests.support.no_skip"]

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("SWE_GYM_HOME", str(ROOT / ".cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded task rows and trajectories that are no part of the project."""
    folder = Path(os.environ.get("SWE_GYM_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no recorded data in {folder}; SWE_GYM_SHARED_DATA says where it lies")
    return folder


@pytest.fixture(scope="session")
def pip_environment() -> None:
    """pip has made an environment with pytest, for which it asks a package index once."""
    from swe_gym_env.tasks.pypi import fetch
    from swe_gym_env.tasks.pypi.catalog import PYTEST

    fetch.environment_for("pytest", PYTEST)


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Each test begins with the levels of a new process: a command sets those of our packages."""
    ours = [logging.getLogger(name) for name in ("experiments", "algorithms", "swe_gym_env")]
    before = [logger.level for logger in ours]
    yield
    for logger, level in zip(ours, before, strict=True):
        logger.setLevel(level)
