"""The parent's side of a sandbox: start its supervisor, send it requests, read its answers."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import ExecResult, Guarantee
from swe_gym_env.sandbox.guest import wire

START_SECONDS = 60.0
GRACE_SECONDS = 15.0  # past a command's own limit, which the supervisor keeps
CLOSE_SECONDS = 10.0
_BOOT = "import sys; sys.path.append({!r}); from guest.main import nursery; nursery({}, {})"


class StartError(SandboxError):
    """The sandbox could not be made. ``errno`` is that of the call that failed, or 0."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class SupervisedSandbox:
    """A sandbox behind a socket. Which namespaces it has, if any, is a matter of ``config``."""

    def __init__(
        self,
        config: dict[str, Any],
        guarantees: Mapping[str, Guarantee],
        env: Mapping[str, str],
        workdir: str,
        sock: Any = None,
    ) -> None:
        """``sock``: something like a socket with a supervisor behind it; None starts one here."""
        self.guarantees = guarantees
        self._env, self._workdir, self._owner = dict(env), workdir, os.getpid()
        self._sock: Any
        self._sock, self._pid = (sock, 0) if sock else _NURSERY.new_sandbox()
        try:
            kind, payload = self._request(config, START_SECONDS)
            if kind != wire.READY:
                (number,) = struct.unpack("!i", payload[:4])
                raise StartError(payload[4:].decode(), number)
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
        if self._sock.fileno() < 0:
            return
        if os.getpid() != self._owner:  # a forked copy must not end its parent's sandbox
            self._sock.close()
            return
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(CLOSE_SECONDS)
            try:
                while self._sock.recv(1 << 16):  # its end is the end of all that ran in the sandbox
                    pass
            except TimeoutError:
                self._end_by_force()
        self._sock.close()

    def _end_by_force(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _file_request(self, what: str, path: str, *args: Any) -> bytes:
        kind, payload = self._request((what, path, *args), START_SECONDS)
        if kind != wire.DATA:
            error = _os_error(payload)
            raise OSError(error.errno, error.strerror, path)
        return payload

    def _request(self, request: Any, seconds: float) -> tuple[bytes, bytes]:
        if self._sock.fileno() < 0:
            raise SandboxError("the sandbox is closed")
        deadline = time.monotonic() + seconds
        data = marshal.dumps(request, 2)  # which every Python reads
        try:
            self._sock.settimeout(seconds)
            self._sock.sendall(wire.HEAD.pack(len(data), b"Q"))
            self._sock.sendall(data)
            length, kind = wire.HEAD.unpack(self._receive(wire.HEAD.size, deadline))
            if kind == wire.BYE:
                raise ConnectionResetError("it was closed meanwhile")
            return kind, self._receive(length, deadline)
        except TimeoutError:
            self.close()
            raise SandboxError(f"the sandbox did not answer within {seconds:.0f} s") from None
        except OSError as error:
            self.close()
            raise SandboxError(f"the sandbox is gone: {error}") from None

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


class _Nursery:
    """One warm interpreter for each process that makes sandboxes; it ends with that process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)

    def new_sandbox(self) -> tuple[socket.socket, int]:
        """This side's end of the socket to a newly forked supervisor, and its process id."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._control is None or self._process is None or self._process.poll() is not None:
                self._control, self._process = self._start()
            try:
                socket.send_fds(self._control, [b"b"], [theirs.fileno()])
                (pid,) = struct.unpack("!i", self._control.recv(4))
            except (OSError, struct.error) as error:  # the latter: it ended without an answer
                self._process.kill()
                raise StartError(f"cannot start a sandbox: {error}") from error
        return ours, pid

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        control, theirs = socket.socketpair()
        with theirs:
            folder = str(Path(__file__).parent)
            boot = _BOOT.format(folder, theirs.fileno(), os.getpid())
            control.settimeout(START_SECONDS)
            process = subprocess.Popen(
                [_interpreter(), "-I", "-S", "-c", boot],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends the sandboxes
            )
        return control, process

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        self._lock, self._control, self._process = threading.Lock(), None, None


_NURSERY = _Nursery()


def _os_error(payload: bytes) -> OSError:
    (number,) = struct.unpack("!i", payload[:4])
    return OSError(number, payload[4:].decode(errors="replace"))


def _interpreter() -> str:
    """Outside any virtual environment: it starts faster, and a sandbox may not see that folder."""
    return getattr(sys, "_base_executable", None) or sys.executable
