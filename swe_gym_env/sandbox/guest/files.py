"""Read and write files of a sandbox without a shell.

Code in the sandbox must not be able to make the supervisor hang. So files are opened without
blocking (a named pipe has no reader or writer) and anything but a regular file is refused.
"""

from __future__ import annotations

import errno
import os
import stat

LARGEST_FILE = 256 << 20


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb") as handle:
        _regular(fd)
        data = handle.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o644)
    with open(fd, "wb", buffering=0) as handle:
        _regular(fd)
        handle.truncate(0)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


def _regular(fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")
