"""A full disk is the user's to mend: one message with the path and the room that is left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Also as libraries put it that do not raise OSError (safetensors)."""
    return getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error)


@contextlib.contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Around what writes ``path``. SetupError where the disk is full."""
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise SetupError(message(path)) from error


def message(path: str | Path) -> str:
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**20
    return (
        f"the disk is full: {path} cannot be written ({free:.0f} MiB free there). What is finished "
        "is kept: make room, then give the same command again."
    )


def write_json(path: Path, data: Any) -> None:
    """Aside and renamed: a reader never sees half a file. SetupError where it cannot be written."""
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}")
        aside.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
        aside.replace(path)


def read_json(path: Path) -> Any:
    """None where there is no such file. SetupError where it holds no JSON."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SetupError(
            f"{path} is damaged ({error}): restore it, or delete it to have it written again"
        ) from None
