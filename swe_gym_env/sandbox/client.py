"""The parent's side of a sandbox: it starts the supervisor, sends requests and reads answers.

Every kind of sandbox has the same supervisor (``guest/supervisor.py``) behind a socket, so this
module is the only one that speaks its protocol (``guest/wire.py``). The parent trusts nothing that
comes out of a sandbox: answers are numbers and bytes, their lengths are checked, and each request
has a deadline. After a missed deadline or a broken connection the sandbox is closed, because
an answer that arrives later would be taken for the answer to the next request.
"""

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
GRACE_SECONDS = 15.0  # beyond the time limit of a command, which the supervisor itself enforces
CLOSE_SECONDS = 10.0  # that the processes of a sandbox have to end before it is killed
_BOOT = "import sys; sys.path.append({!r}); from guest.main import nursery; nursery({}, {})"


class StartError(SandboxError):
    """The sandbox could not be made.

    Attributes:
        errno: Error number of the system call that failed; 0 if no system call did.
    """

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class SupervisedSandbox:
    """A sandbox whose supervisor is reached through a socket (see ``base.Sandbox``).

    The same class serves all kinds of sandboxes. Whether the supervisor makes namespaces first is
    decided by ``config["kind"]``.
    """

    def __init__(
        self,
        config: dict[str, Any],
        guarantees: Mapping[str, Guarantee],
        env: Mapping[str, str],
        workdir: str,
        sock: Any = None,
    ) -> None:
        """Start the sandbox and wait until it is ready.

        Args:
            config: Settings for the guest (``guest/main.py``, ``guest/contained.py``): ``kind`` is
                ``local``, ``process`` or ``docker``; the other keys depend on it.
            guarantees: How well each limit is enforced.
            env: Environment of every command.
            workdir: Folder in which commands run by default.
            sock: An object with the methods of a socket and a supervisor at its other end. None
                forks a new supervisor on this machine.

        Raises:
            StartError: The supervisor reported that it cannot make the sandbox.
            SandboxError: The supervisor ended or did not answer.
        """
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
                # The stream ends only after the last process of the sandbox has ended.
                while self._sock.recv(1 << 16):
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
        data = marshal.dumps(request, 2)  # version 2 is read by every Python that a guest may have
        try:
            self._sock.settimeout(seconds)
            self._sock.sendall(wire.HEAD.pack(len(data), b"Q"))
            self._sock.sendall(data)
            length, kind = wire.HEAD.unpack(self._receive(wire.HEAD.size, deadline))
            if kind == wire.BYE:
                raise ConnectionResetError("it was closed in the meantime")
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
    """A warm interpreter that forks the supervisors of this process's sandboxes.

    Starting an interpreter takes longer than making a sandbox, so one is kept running and forks for
    each new sandbox (``guest/main.py``). Forking this process itself would be wrong: it has threads
    and may hold gigabytes. The interpreter watches the process that started it and ends with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)

    def new_sandbox(self) -> tuple[socket.socket, int]:
        """Fork a supervisor.

        Returns:
            The parent's end of the socket to it, and its process id.

        Raises:
            StartError: The interpreter has ended or does not answer.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._control is None or self._process is None or self._process.poll() is not None:
                self._control, self._process = self._start()
            try:
                socket.send_fds(self._control, [b"b"], [theirs.fileno()])
                (pid,) = struct.unpack("!i", self._control.recv(4))
            except (OSError, struct.error) as error:  # struct.error: it ended without an answer
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
        """In a forked child: the interpreter belongs to the parent, which must not lose it."""
        if self._control is not None:
            self._control.close()
        self._lock, self._control, self._process = threading.Lock(), None, None


_NURSERY = _Nursery()


def _os_error(payload: bytes) -> OSError:
    (number,) = struct.unpack("!i", payload[:4])
    return OSError(number, payload[4:].decode(errors="replace"))


def _interpreter() -> str:
    """The interpreter outside of any virtual environment.

    It starts faster, and the folder of a virtual environment may not be visible in a sandbox.
    """
    return getattr(sys, "_base_executable", None) or sys.executable
