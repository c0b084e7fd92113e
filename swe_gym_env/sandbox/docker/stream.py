"""The connection to a container: its attached standard streams, and the program sent through them.

The engine starts a shell that looks for a Python, and that Python reads the modules of the
supervisor from standard input (first 8 digits with their length). After that the same stream
carries the protocol of ``guest/wire.py``. The engine wraps what comes back into frames that say
which stream the bytes are from; :class:`Attached` removes these frames.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from pathlib import Path
from typing import Any

from swe_gym_env.sandbox.guest import wire

MODULES = ("kernel", "seccomp", "wire", "tree", "files", "supervisor", "contained")
STDOUT, FRAME = 1, struct.Struct(">BxxxL")  # header of a frame: number of the stream, bytes
NO_PYTHON = "no Python 3.9 or newer in this image"
# The engine starts this shell; the first Python that is new enough becomes process 1
FIND = f"""
for p in python3 /usr/bin/python3 /usr/local/bin/python3 /opt/miniconda3/bin/python3; do
  "$p" -I -S -c "import sys; sys.exit(sys.version_info < (3, 9))" 2>/dev/null &&
    exec "$p" -I -S -c "$0"
done
echo "{NO_PYTHON}" >&2
"""
RECEIVE = """
import os
def take(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        data += part or os._exit(1)
    return data
exec(compile(take(int(take(8))), "guest", "exec"))
"""
LOAD = """
import sys, types
package = sys.modules["guest"] = types.ModuleType("guest")
package.__path__ = []
for name, source in MODULES.items():
    module = sys.modules["guest." + name] = types.ModuleType("guest." + name)
    module.__package__ = "guest"
    setattr(package, name, module)
    exec(compile(source, f"guest/{name}.py", "exec"), module.__dict__)
sys.modules["guest.contained"].main()
"""


class Attached:
    """The standard input and output of a container, with the methods of a socket.

    What the container writes to standard error is kept for the message of an error.
    """

    def __init__(self, api: Any, container: str) -> None:
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._file = api.attach_socket(container, wanted)
        self._sock: socket.socket = getattr(self._file, "_sock", self._file)
        self._left = 0  # bytes left of the frame that is being read
        self._complaint = b""  # the end of what came on standard error
        self.fileno, self.settimeout = self._sock.fileno, self._sock.settimeout
        self.shutdown = self._sock.shutdown

    def sendall(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except BrokenPipeError:  # standard error may say why; reading it raises
            while self.recv_into(memoryview(bytearray(4096))):
                pass

    def recv(self, count: int) -> bytes:
        """Bytes after the last request; empty as soon as the supervisor has sent ``BYE``.

        The engine closes the stream some time after that, and nobody should wait for it.
        """
        view = memoryview(bytearray(count))
        data = bytes(view[: self.recv_into(view)])
        return b"" if data.endswith(wire.HEAD.pack(0, wire.BYE)) else data

    def recv_into(self, view: memoryview) -> int:
        """Read bytes of standard output into ``view`` and return their number.

        Raises:
            ConnectionResetError: The container has ended; the message quotes standard error.
        """
        while not self._left:
            header = self._exactly(FRAME.size)
            stream, self._left = FRAME.unpack(header)
            if stream != STDOUT:
                self._complaint = (self._complaint + self._exactly(self._left))[-2000:]
                self._left = 0
        got = self._sock.recv_into(view[: self._left])
        if not got:
            raise self._gone()
        self._left -= got
        return got

    def _exactly(self, count: int) -> bytes:
        data = self._sock.recv(count, socket.MSG_WAITALL) if count else b""
        if len(data) < count:
            raise self._gone()
        return data

    def _gone(self) -> ConnectionResetError:
        complaint = self._complaint.decode("utf-8", "replace").strip()
        return ConnectionResetError(f"it ended unexpectedly {complaint and f'({complaint})'}")

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@cache
def program() -> bytes:
    """The supervisor's modules, as one program."""
    folder = Path(__file__).parents[1] / "guest"
    sources = {name: (folder / f"{name}.py").read_text() for name in MODULES}
    return f"MODULES = {sources!r}\n{LOAD}".encode()
