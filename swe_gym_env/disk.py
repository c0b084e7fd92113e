"""Write files so that a full disk or an unwritable folder becomes one clear message for the user.

All results of the project are written through this module or inside its :func:`room_for`. Errors
that only the user can correct become a SetupError that names the path; other errors pass unchanged.
Text files are written atomically.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

FULL = (errno.ENOSPC, errno.EDQUOT)
FILE = "is a file where a folder is needed"
READ_ONLY = "is on a file system that can only be read"
NOT_ALLOWED = "may not be read or written by this user"
# What is wrong with the file that an error names, if nothing is wrong with the folders above it.
# None: an ordinary missing file is not a matter of this module.
BLOCKED = {
    errno.EROFS: READ_ONLY,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.ENOTDIR: FILE,
    errno.EEXIST: FILE,
    errno.ENOENT: None,
    errno.EISDIR: "is a folder where a file is needed",
    errno.ELOOP: "is a link that leads back to itself",
    errno.ENAMETOOLONG: "is longer than a name may be",
}


def is_full(error: BaseException) -> bool:
    """Whether the error says that the disk is full, also if it is not an OSError (safetensors)."""
    return getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error)


@contextlib.contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Turn errors of code that writes ``path`` into a SetupError, if the user can correct them.

    Args:
        path: The file or folder that is written in the ``with`` block.

    Raises:
        SetupError: The disk is full, or the path cannot be written.
    """
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        if problem := message(error, path):
            raise SetupError(problem) from error
        raise


def message(error: BaseException, path: str | Path) -> str | None:
    """What the user has to correct.

    Args:
        error: What was raised while ``path`` was written. If it names another file, the message is
            about that file.
        path: What was to be written.

    Returns:
        A message with the path and the remedy; None if the error is of another kind.
    """
    if is_full(error):
        free = shutil.disk_usage(_existing(Path(path))).free / 2**20
        return (
            f"the disk is full: {path} cannot be written ({free:.0f} MiB free there). What is "
            "finished is kept: make room, then give the same command again."
        )
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or number not in BLOCKED or error.filename is None:
        return None
    named = Path(os.fsdecode(error.filename))
    problem = _in_the_way(named)
    if problem is None and (of_file := BLOCKED[number]):
        problem = f"{named.absolute()} {of_file}"
    if problem is None:
        return None
    return f"{problem}, so that {path} cannot be used. Correct that, or give another folder."


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written to ``folder``; None if it can be. Creates nothing.

    The folder need not exist: then the folders above it are checked.
    """
    return _in_the_way(folder / "file")


def _in_the_way(path: Path) -> str | None:
    """What is wrong with the folders above ``path``, or with ``path`` if it is a link."""
    whole = path.absolute()
    for part in [*reversed(whole.parents), whole]:
        if os.path.islink(part) and not os.path.exists(part):
            return f"{part} is a link to what is not there"
        if part != whole and os.path.lexists(part) and not os.path.isdir(part):
            return f"{part} {FILE}"
    above = _existing(whole.parent)
    if os.access(above, os.W_OK | os.X_OK):
        return None
    only_read = os.statvfs(above).f_flag & os.ST_RDONLY
    return f"{above} {READ_ONLY if only_read else NOT_ALLOWED}"


def _existing(path: Path) -> Path:
    """``path`` if it is a folder, otherwise the nearest folder above it that exists."""
    folder = path.absolute()
    while not os.path.isdir(folder):  # also False if this user may not look into the folder above
        folder = folder.parent
    return folder


def make_folder(path: Path) -> None:
    """Create a folder and those above it. Raises SetupError if that is impossible."""
    with room_for(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file and the folders above it.

    The text is written to another file, which is then renamed, so a reader never sees a part of it.
    Raises SetupError if the file cannot be written.
    """
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}")
    with room_for(path):
        aside.write_bytes(text.encode("utf-8", "replace"))
        aside.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON (see :func:`write_text`)."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Returns None if it does not exist; raises SetupError if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise SetupError(
            f"{path} is damaged ({error}): restore it, or delete it to have it written again"
        ) from None


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Without Python's search for cycles of garbage. It would go through all values that have been
    read again and again, and take as long as the reading itself. Also a decorator."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
