"""A full disk, or a place that cannot be written: one message with the path, for the user."""

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
FILE = "is a file where a folder is needed"
READ_ONLY = "is on a file system that can only be read"
NOT_ALLOWED = "may not be read or written by this user"
# What an error says of the file that it names, where nothing above that is in the way
BLOCKED = {
    errno.EROFS: READ_ONLY,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.ENOTDIR: FILE,
    errno.EEXIST: FILE,
    errno.ENOENT: None,  # an ordinary file that is missing is none of this
    errno.EISDIR: "is a folder where a file is needed",
    errno.ELOOP: "is a link that leads back to itself",
    errno.ENAMETOOLONG: "is longer than a name may be",
}


def is_full(error: BaseException) -> bool:
    """Also as libraries put it that do not raise OSError (safetensors)."""
    return getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error)


@contextlib.contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Around what writes ``path``. SetupError where the disk is full, or the place is one that
    cannot be written."""
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        if said := message(error, path):
            raise SetupError(said) from error
        raise


def message(error: BaseException, path: str | Path) -> str | None:
    """What the user has to mend at ``path``, or where the error itself names a file; None where the
    error is of another kind."""
    if is_full(error):
        free = shutil.disk_usage(_standing(Path(path))).free / 2**20
        return (
            f"the disk is full: {path} cannot be written ({free:.0f} MiB free there). What is "
            "finished is kept: make room, then give the same command again."
        )
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or number not in BLOCKED or error.filename is None:
        return None
    named = Path(os.fsdecode(error.filename))
    said = _in_the_way(named)
    if said is None and (own := BLOCKED[number]):
        said = f"{named.absolute()} {own}"
    return said and f"{said}, so that {path} cannot be used. Correct that, or give another folder."


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written to ``folder``, which need not be there. Makes nothing."""
    return _in_the_way(folder / "file")


def _in_the_way(path: Path) -> str | None:
    """What is wrong with the folders above ``path``, or with a link that it is."""
    whole = path.absolute()
    for one in [*reversed(whole.parents), whole]:
        if os.path.islink(one) and not os.path.exists(one):
            return f"{one} is a link to what is not there"
        if one != whole and os.path.lexists(one) and not os.path.isdir(one):
            return f"{one} {FILE}"
    above = _standing(whole.parent)
    if os.access(above, os.W_OK | os.X_OK):
        return None
    only_read = os.statvfs(above).f_flag & os.ST_RDONLY
    return f"{above} {READ_ONLY if only_read else NOT_ALLOWED}"


def _standing(path: Path) -> Path:
    """It, or the nearest folder above that there is."""
    folder = path.absolute()
    while not os.path.isdir(folder):  # False too where we may not look
        folder = folder.parent
    return folder


def make_folder(path: Path) -> None:
    """With those above. SetupError where it cannot be made."""
    with room_for(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Aside and renamed: a reader never sees half a file. SetupError where it cannot be written."""
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}")
    with room_for(path):
        aside.write_bytes(text.encode("utf-8", "replace"))
        aside.replace(path)


def write_json(path: Path, data: Any) -> None:
    """As :func:`write_text`."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """None where there is no such file. SetupError where it holds no JSON."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise SetupError(
            f"{path} is damaged ({error}): restore it, or delete it to have it written again"
        ) from None
