"""The way into a container: its attached stdin and stdout, and the program that is sent there."""

from __future__ import annotations

import socket
import struct
from functools import cache
from pathlib import Path
from typing import Any

from swe_gym_env.sandbox.guest import wire

MODULES = ("kernel", "seccomp", "wire", "tree", "files", "supervisor", "contained")
STDOUT, FRAME = 1, struct.Struct(">BxxxL")  # which stream, how many bytes of it follow
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
    """The container's stdin and stdout as one socket: the engine's frames are taken off."""

    def __init__(self, api: Any, container: str) -> None:
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._file = api.attach_socket(container, wanted)
        self._sock: socket.socket = getattr(self._file, "_sock", self._file)
        self._left = 0  # of the frame that is being read
        self._complaint = b""
        self.fileno, self.settimeout = self._sock.fileno, self._sock.settimeout
        self.shutdown = self._sock.shutdown

    def sendall(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except BrokenPipeError:  # why, it may have said on stderr
            while self.recv_into(memoryview(bytearray(4096))):
                pass

    def recv(self, count: int) -> bytes:
        """What comes after the last request: empty as soon as the supervisor has said goodbye,
        which is earlier than the engine closes the stream."""
        view = memoryview(bytearray(count))
        data = bytes(view[: self.recv_into(view)])
        return b"" if data.endswith(wire.HEAD.pack(0, wire.BYE)) else data

    def recv_into(self, view: memoryview) -> int:
        """Some bytes of stdout. Raises ConnectionResetError with what stood on stderr."""
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
