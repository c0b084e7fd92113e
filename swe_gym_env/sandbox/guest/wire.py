"""Frames between the parent and a sandbox: a length, a kind, a payload.

What goes in is marshaled (a sandbox trusts its parent; version 2, for any interpreter in it). What
comes out of a sandbox is only numbers and bytes, because the parent does not trust the sandbox.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
from typing import Any

HEAD = struct.Struct("!Ic")  # length of the payload, kind
RESULT = struct.Struct("!idIQI")  # exit code, seconds, timed out, dropped, head; then the output
READY, DATA, RESULT_KIND, ERROR, FATAL, BYE = b"K", b"D", b"R", b"E", b"F", b"B"


class Gone(Exception):  # noqa: N818 - it is a message, not a fault
    """The parent has let go of its end."""


def receive(sock: int) -> Any:
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
    for part in (HEAD.pack(len(payload), kind), payload):
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(sock, view) :]
            except (BrokenPipeError, ConnectionResetError):
                raise Gone from None


def reply_ready(sock: int) -> None:
    reply(sock, READY, b"")


def reply_os_error(sock: int, error: OSError) -> None:
    reply(sock, ERROR, struct.pack("!i", error.errno or 5) + str(error.strerror).encode())


def reply_error(sock: int, error: BaseException) -> None:
    """The sandbox cannot go on."""
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
    with contextlib.suppress(Gone, OSError):
        reply(sock, FATAL, struct.pack("!i", number) + str(text).encode())
