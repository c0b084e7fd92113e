"""Process 1 of a sandbox: runs commands, watches them, and moves files in and out.

One command runs at a time. Its output is read here, so that a flood costs the parent nothing; its
time limit is kept here, next to the processes that have to be killed for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import struct
import time
from functools import partial
from typing import Any

from . import files, kernel, tree, wire

SPARE = 16  # processes that a crowd in the background may not take, so that a shell can start
TICK = 0.1  # seconds between two looks at memory and processes
CHUNK = 1 << 16
FIONREAD = 0x541B


class Output:
    """The first and the last bytes of a stream, and how many were left out between."""

    def __init__(self, limit: int) -> None:
        self.head_limit = limit // 2
        self.tail_limit = limit - self.head_limit
        self.head, self.tail, self.total = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.head_limit - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > 2 * self.tail_limit + CHUNK:
            del self.tail[: -self.tail_limit]

    def result(self) -> tuple[bytes, int, int]:
        """(bytes, how many were dropped, how many stand before the cut)"""
        tail = self.tail[max(0, len(self.tail) - self.tail_limit) :]
        dropped = self.total - len(self.head) - len(tail)
        return bytes(self.head + tail), dropped, len(self.head) if dropped else 0


class Supervisor:
    """Answers requests until the parent lets go; then the sandbox ends with it."""

    def __init__(
        self, sock: int, parent: int | None, config: dict[str, Any], answers: int | None = None
    ) -> None:
        """Reads requests from ``sock`` and answers there, or on a pipe of its own. ``parent`` is a
        pidfd; without one, the end of ``sock`` must tell that the parent has gone."""
        self.sock, self.parent, self.config = sock, parent, config
        self.answers = sock if answers is None else answers
        self.namespace = config["kind"] != "process"
        self.poll = select.poll()
        if parent is not None:
            self.poll.register(parent, select.POLLIN)
        self.poll.register(sock, select.POLLIN)
        self.drains: set[int] = set()  # pipes that background children still hold
        self.children = False
        kernel.default_signal(2)  # Python's own handler would let the sandbox interrupt us
        for fd in {sock, self.answers, *([] if parent is None else [parent])}:
            os.set_inheritable(fd, False)
        for kind, value in config["rlimits"]:  # ours too: nothing can raise a limit it inherits
            resource.setrlimit(kind, (value, value))

    def serve(self) -> None:
        try:
            while True:
                for fd, _ in self.poll.poll(1000 * TICK if self.children else None):
                    if fd == self.parent:
                        return
                    if fd == self.sock:
                        self._answer(*wire.receive(self.sock))
                    else:
                        self._drain(fd)
                self._reap()
                if self.children:
                    self._watch(frozenset(), SPARE)
        except wire.Gone:
            pass
        finally:
            if self.config["kind"] != "local":  # there the kernel does it, when we end
                tree.kill(frozenset(), self.namespace)
                self._remove()
                with contextlib.suppress(wire.Gone, OSError):
                    wire.reply(self.answers, wire.BYE)

    def _answer(self, what: str, *args: Any) -> None:
        try:
            if what == "exec":
                wire.reply(self.answers, wire.RESULT_KIND, self._execute(*args))
            elif what == "read":
                wire.reply(self.answers, wire.DATA, files.read(*args))
            else:
                files.write(*args)
                wire.reply(self.answers, wire.DATA)
        except OSError as error:
            wire.reply_os_error(self.answers, error)
        except MemoryError:
            wire.reply_os_error(self.answers, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))

    def _execute(
        self, command: str, timeout: float, cwd: str, env: dict[str, str], stdin: bytes
    ) -> bytes:
        began = time.monotonic()
        self._reap()
        older = frozenset(tree.living()) if self.children else frozenset()
        source, sink = os.pipe()
        with contextlib.suppress(
            OSError
        ):  # a user may have 64 MiB of pipes, whatever the sandboxes
            fcntl.fcntl(source, 1031, 1 << 20)  # F_SETPIPE_SZ: fewer turns for much output
        given, feed = os.pipe()
        try:
            shell = self._spawn(command, cwd, env, given, sink)
        except OSError as error:  # a folder that is not there, a command that is too long
            code, what = (126, f"cd: {cwd}") if error.filename == cwd else (127, "cannot start")
            for fd in (source, feed):
                os.close(fd)
            text = f"bash: {what}: {error.strerror}\n".encode()
            return wire.RESULT.pack(code, 0.0, False, 0, 0) + text
        finally:
            os.close(given)
            os.close(sink)
        os.set_blocking(source, False)
        os.set_blocking(feed, False)
        output = Output(self.config["output"])
        status = self._pump(shell, source, output, feed, stdin, began + timeout, older)
        if status is None:
            tree.kill(older, self.namespace)
            os.waitpid(shell, 0)
        self._finish(source, output)
        self._reap()
        code = 124 if status is None else os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        text, dropped, head = output.result()
        seconds = time.monotonic() - began
        return wire.RESULT.pack(code, seconds, status is None, dropped, head) + text

    def _spawn(self, command: str, cwd: str, env: dict[str, str], given: int, sink: int) -> int:
        """Not by fork: copying an interpreter's memory map costs as much as starting a bash."""
        os.chdir(cwd)
        streams = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((given, sink, sink))]
        start = partial(
            os.posix_spawn,
            self.config["shell"],
            ["bash", "-c", command],
            env,
            file_actions=streams,
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ],
        )
        try:
            pid = start()
        except BlockingIOError:  # a crowd in the background has taken every process
            self._watch(frozenset(), SPARE)
            pid = start()
        self.children = True
        if self.config["kind"] == "docker":  # out of memory, the kernel is to spare us
            with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as handle:
                handle.write("1000")
        return pid

    def _pump(
        self,
        shell: int,
        source: int,
        output: Output,
        feed: int,
        stdin: bytes,
        deadline: float,
        older: frozenset[int],
    ) -> int | None:
        """Move bytes until the shell ends; its wait status, or None if its time is over."""
        pidfd = os.pidfd_open(shell)
        left = memoryview(stdin)
        self.poll.modify(self.sock, select.POLLRDHUP)  # only to hear that the parent has gone
        watched = {pidfd: select.POLLIN, source: select.POLLIN, feed: select.POLLOUT}
        for fd, events in watched.items():
            self.poll.register(fd, events)
        look = time.monotonic() + TICK
        try:
            while (now := time.monotonic()) < deadline:
                if now >= look:
                    self._watch(older)
                    look = time.monotonic() + TICK
                ready = self.poll.poll(1000 * max(0.0, min(deadline, look) - now) + 1)
                for fd in [fd for fd, _ in ready if fd != pidfd]:
                    if fd in (self.parent, self.sock):
                        raise wire.Gone
                    if fd == source:
                        output.add(data := _read_some(source) or b"")
                        done = not data
                    elif fd == feed:
                        left = _feed(feed, left)
                        done = not left
                    else:
                        done = False
                        self._drain(fd)
                    if done:
                        self.poll.unregister(fd)
                        del watched[fd]
                        if fd == feed:
                            os.close(feed)
                if any(fd == pidfd for fd, _ in ready):
                    return os.waitpid(shell, 0)[1]
            return None
        finally:
            for fd in watched:
                self.poll.unregister(fd)
                if fd != source:
                    os.close(fd)
            self.poll.modify(self.sock, select.POLLIN)

    def _finish(self, source: int, output: Output) -> None:
        """Take what stands in the pipe now; a child in the background may go on writing."""
        waiting = struct.unpack("i", fcntl.ioctl(source, FIONREAD, bytes(4)))[0]
        while waiting > 0 and (data := _read_some(source)):
            output.add(data)
            waiting -= len(data)
        probe = select.poll()
        probe.register(source, select.POLLIN)
        if any(event & select.POLLHUP for _, event in probe.poll(0)):
            os.close(source)
        else:
            self.drains.add(source)
            self.poll.register(source, select.POLLIN)

    def _drain(self, fd: int) -> None:
        if fd in self.drains and _read_some(fd) == b"":
            self.poll.unregister(fd)
            self.drains.discard(fd)
            os.close(fd)

    def _reap(self) -> None:
        while self.children:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                self.children = False

    def _watch(self, older: frozenset[int], spare: int = 0) -> None:
        """Best effort: memory over the limit costs the largest processes their lives."""
        processes = tree.living()
        if len(processes) > self.config["processes"] - spare:
            tree.kill(older, self.namespace)
        for pid in tree.over_limit(processes, self.config["memory"]):
            tree.send_kill(pid)

    def _remove(self) -> None:
        if self.config.get("remove"):
            import shutil

            shutil.rmtree(self.config["remove"], ignore_errors=True)


def _read_some(fd: int) -> bytes | None:
    """None if there is nothing now, empty at the end."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None


def _feed(fd: int, data: memoryview) -> memoryview:
    """What is left to write; nothing if the reader does not want more."""
    try:
        return data[os.write(fd, data[:CHUNK]) :] if data else data
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]
