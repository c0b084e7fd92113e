"""Where this project keeps what it can make again: images, environments, downloads, models."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The root of the cache: ``$SWE_GYM_HOME``, or ``~/.cache/swe_gym_env``."""
    return Path(os.environ.get("SWE_GYM_HOME") or Path.home() / ".cache" / "swe_gym_env").absolute()
