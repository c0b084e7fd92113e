"""The parent's side of a box: start its supervisor, send it requests, read its answers."""

from __future__ import annotations

import marshal
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import ExecResult, Guarantee
from swe_gym_env.sandbox.box import wire

START_SECONDS = 60.0
GRACE_SECONDS = 15.0  # past a command's own limit, which the supervisor keeps
CLOSE_SECONDS = 10.0
_BOOT = "import sys; sys.path.append({!r}); from box.main import main; main({})"


class StartFailed(SandboxError):
    """The box could not be made. ``errno`` is that of the call that failed, or 0."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class SupervisedSandbox:
    """A box behind a socket. Which namespaces it has, if any, is a matter of ``config``."""

    def __init__(
        self,
        config: dict[str, Any],
        guarantees: Mapping[str, Guarantee],
        env: Mapping[str, str],
        workdir: str,
    ) -> None:
        self.guarantees = guarantees
        self._env, self._workdir, self._owner = dict(env), workdir, os.getpid()
        self._sock, theirs = socket.socketpair()
        with theirs:
            boot = _BOOT.format(str(Path(__file__).parent), theirs.fileno())
            keep = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
            self._process = subprocess.Popen(
                [_interpreter(), "-I", "-S", "-c", boot],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=keep,
            )
        try:
            kind, payload = self._request({**config, "parent": os.getpid()}, START_SECONDS)
            if kind != wire.READY:
                raise StartFailed(payload[4:].decode(), *struct.unpack("!i", payload[:4]))
        except BaseException:
            self.close()
            raise

    def exec(
        self,
        command: str,
        *,
        timeout: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> ExecResult:
        full = {**self._env, **(env or {})}
        request = ("exec", command, timeout, cwd or self._workdir, full, stdin)
        kind, payload = self._request(request, timeout + GRACE_SECONDS)
        if kind != wire.RESULT_KIND:
            raise SandboxError(f"the command could not be started: {_os_error(payload)}")
        code, seconds, timed_out, dropped, head = wire.RESULT.unpack_from(payload)
        output = payload[wire.RESULT.size :]
        return ExecResult(code, output, seconds, bool(timed_out), dropped, head)

    def read(self, path: str) -> bytes:
        return self._file_request("read", path)

    def write(self, path: str, data: bytes) -> None:
        self._file_request("write", path, bytes(data))

    def close(self) -> None:
        if os.getpid() != self._owner:  # a forked copy must not end its parent's box
            self._sock.close()
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _file_request(self, what: str, path: str, *args: Any) -> bytes:
        kind, payload = self._request((what, path, *args), START_SECONDS)
        if kind != wire.DATA:
            error = _os_error(payload)
            raise OSError(error.errno, error.strerror, path)
        return payload

    def _request(self, request: object, seconds: float) -> tuple[bytes, bytes]:
        if self._sock.fileno() < 0:
            raise SandboxError("the box is closed")
        deadline = time.monotonic() + seconds
        data = marshal.dumps(request)
        try:
            self._sock.settimeout(seconds)
            self._sock.sendall(wire.HEAD.pack(len(data), b"Q"))
            self._sock.sendall(data)
            length, kind = wire.HEAD.unpack(self._receive(wire.HEAD.size, deadline))
            return kind, self._receive(length, deadline)
        except TimeoutError:
            self.close()
            raise SandboxError(f"the box did not answer within {seconds:.0f} s") from None
        except OSError as error:
            self.close()
            raise SandboxError(f"the box is gone: {error}") from None

    def _receive(self, count: int, deadline: float) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            got = self._sock.recv_into(view)
            if not got:
                raise ConnectionResetError("it ended unexpectedly")
            view = view[got:]
        return bytes(data)


def _os_error(payload: bytes) -> OSError:
    (number,) = struct.unpack("!i", payload[:4])
    return OSError(number, payload[4:].decode(errors="replace"))


def _interpreter() -> str:
    """Outside any virtual environment: it starts faster, and a box may not see that folder."""
    return getattr(sys, "_base_executable", None) or sys.executable
