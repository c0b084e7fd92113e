"""The protocol between the parent and a sandbox: frames of a length, a kind and a payload.

Requests are Python tuples in marshal's format (version 2, which every interpreter reads); this is
safe because a sandbox trusts its parent. Answers are only numbers and bytes in a fixed layout,
because the parent does not trust the sandbox: unmarshaling could crash it.

A session: the parent sends the configuration (a dict) and gets ``READY`` or ``FATAL``. Then each
request gets exactly one answer, in order: ``("exec", command, timeout, cwd, env, stdin)`` gets
``RESULT_KIND``, ``("read", path)`` and ``("write", path, data)`` get ``DATA``; each of them may get
``ERROR``, an error number and a message. ``BYE`` says that all processes have ended; it is not sent
by a ``local`` sandbox, whose processes the kernel ends.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
from typing import Any

HEAD = struct.Struct("!Ic")  # length of the payload in bytes, kind
RESULT = struct.Struct("!idIQI")  # fields of ExecResult but the output, which follows
READY, DATA, RESULT_KIND, ERROR, FATAL, BYE = b"K", b"D", b"R", b"E", b"F", b"B"


class Gone(Exception):  # noqa: N818 - it is a message, not a fault
    """The parent has closed its end."""


def receive(sock: int) -> Any:
    """Read one request. Raises Gone at the end of the stream."""
    length, _ = HEAD.unpack(_read(sock, HEAD.size))
    return marshal.loads(_read(sock, length))


def _read(sock: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(sock, min(count, 1 << 20))
        if not part:
            raise Gone
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def reply(sock: int, kind: bytes, payload: bytes = b"") -> None:
    """Write one answer. Raises Gone if nobody reads it."""
    for part in (HEAD.pack(len(payload), kind), payload):
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(sock, view) :]
            except (BrokenPipeError, ConnectionResetError):
                raise Gone from None


def reply_ready(sock: int) -> None:
    """The sandbox accepts requests now."""
    reply(sock, READY, b"")


def reply_os_error(sock: int, error: OSError) -> None:
    """The request failed; the sandbox continues."""
    reply(sock, ERROR, struct.pack("!i", error.errno or 5) + str(error.strerror).encode())


def reply_error(sock: int, error: BaseException) -> None:
    """The sandbox cannot be made or continued."""
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
    with contextlib.suppress(Gone, OSError):
        reply(sock, FATAL, struct.pack("!i", number) + str(text).encode())
