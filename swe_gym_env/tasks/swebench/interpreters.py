"""Find interpreters on this machine: repositories of SWE-bench need old ones, which are rare."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from swe_gym_env.errors import SetupError

MINORS = range(6, 16)
ASK = "import sys, venv; print(sys.version_info[1], sys.prefix == sys.base_prefix)"
NEW_IDS = 11  # since Python 3.11, unittest prints the name of a test twice: test_x (m.C.test_x)


def _candidates() -> Iterator[Path]:
    for minor in MINORS:
        if found := shutil.which(f"python3.{minor}"):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.*/bin/python"))
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    yield from sorted(uv.glob("cpython-3.*/bin/python3"))


@cache
def found() -> dict[int, Path]:
    """Interpreters of Python 3.x by x: those on PATH, of pyenv and of uv."""
    here: dict[int, Path] = {}
    for path in _candidates():
        try:
            done = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        minor, _, plain = done.stdout.strip().partition(" ")
        if done.returncode == 0 and plain == "True":
            here.setdefault(int(minor), path.resolve())
    return here


def nearest(wanted: str) -> tuple[str, Path]:
    """The wanted Python 3.x, or else the nearest newer or older one with the same names of tests.

    Returns:
        Its version and path.

    Raises:
        SetupError: There is none.
    """
    minor = int(wanted.split(".")[1])
    alike = {x: path for x, path in found().items() if (x >= NEW_IDS) == (minor >= NEW_IDS)}
    if not alike:
        raise SetupError(
            f"no Python like {wanted} is here (PATH, pyenv and uv were searched): "
            f"pyenv install {wanted}, or uv python install {wanted}"
        )
    best = min(alike, key=lambda x: (abs(x - minor), x < minor))
    return f"3.{best}", alike[best]
