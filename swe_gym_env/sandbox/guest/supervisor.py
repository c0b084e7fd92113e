"""Process 1 of a sandbox: it runs commands, watches them, and moves files in and out.

One command runs at a time. Its output is read here, so that a flood of output costs the parent
nothing. Its time limit is enforced here, next to the processes that must be killed for it.

Invariants:

- The supervisor never blocks on code of the sandbox: every wait is a ``poll`` with a timeout that
  also watches the parent and the socket, and pipes to a command do not block.
- It ends when the parent does, also in the middle of a command. The sandbox ends with it.
- After a command has timed out, none of its processes remains. Processes that earlier commands left
  in the background (``older``) are spared, unless killing all is the only way to end the others.
- There is no thread: one loop serves requests, output and the reaping of children.
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

SPARE = 16  # of the limit on processes: kept free from background processes, for the next shell
TICK = 0.1  # seconds between two checks of memory and processes
CHUNK = 1 << 16  # bytes read or written at once
FIONREAD = 0x541B  # ioctl: how many bytes a pipe holds


class Output:
    """Keeps the first and the last bytes of a stream and counts the bytes between them.

    Memory stays bounded: the tail is cut only when it has grown to about twice its size, so that
    not every chunk moves bytes.
    """

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
        """(kept bytes, number of dropped bytes, number of kept bytes before the cut)"""
        tail = self.tail[max(0, len(self.tail) - self.tail_limit) :]
        dropped = self.total - len(self.head) - len(tail)
        return bytes(self.head + tail), dropped, len(self.head) if dropped else 0


class Supervisor:
    """Serves requests until the parent closes its end; then the sandbox ends too."""

    def __init__(
        self, sock: int, parent: int | None, config: dict[str, Any], answers: int | None = None
    ) -> None:
        """Prepare to serve.

        Args:
            sock: Descriptor from which requests are read.
            parent: A pidfd of the parent. None if the end of ``sock`` is the only sign of its end.
            config: ``kind``, the limits (``output``, ``memory``, ``processes``, ``rlimits``),
                ``shell``, and ``remove``, a folder to delete at the end.
            answers: Descriptor to which answers are written; ``sock`` by default.
        """
        self.sock, self.parent, self.config = sock, parent, config
        self.answers = sock if answers is None else answers
        self.namespace = config["kind"] != "process"
        self.poll = select.poll()
        if parent is not None:
            self.poll.register(parent, select.POLLIN)
        self.poll.register(sock, select.POLLIN)
        self.drains: set[int] = set()  # pipes that background children still hold
        self.children = False  # whether there may be processes that were not reaped yet
        kernel.default_signal(2)  # SIGINT: with Python's handler the sandbox could interrupt us
        for fd in {sock, self.answers, *([] if parent is None else [parent])}:
            os.set_inheritable(fd, False)
        for kind, value in config["rlimits"]:  # set here, since an inherited limit cannot be raised
            resource.setrlimit(kind, (value, value))

    def serve(self) -> None:
        """Answer requests until the parent has gone."""
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
            if self.config["kind"] != "local":  # in "local" the kernel kills all when we end
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
        """Run one command and return the payload of its answer (``wire.RESULT``, then output)."""
        began = time.monotonic()
        self._reap()
        older = frozenset(tree.living()) if self.children else frozenset()
        source, sink = os.pipe()
        # F_SETPIPE_SZ: a larger pipe means fewer reads for much output. The kernel refuses it when
        # the pipes of this user hold 64 MiB already.
        with contextlib.suppress(OSError):
            fcntl.fcntl(source, 1031, 1 << 20)
        stdin_end, feed = os.pipe()
        try:
            shell = self._spawn(command, cwd, env, stdin_end, sink)
        except OSError as error:  # the folder does not exist, or the command is too long
            code, what = (126, f"cd: {cwd}") if error.filename == cwd else (127, "cannot start")
            for fd in (source, feed):
                os.close(fd)
            text = f"bash: {what}: {error.strerror}\n".encode()
            return wire.RESULT.pack(code, 0.0, False, 0, 0) + text
        finally:
            os.close(stdin_end)
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

    def _spawn(self, command: str, cwd: str, env: dict[str, str], stdin: int, sink: int) -> int:
        """Start the shell in a new session and return its process id.

        posix_spawn is used because fork would copy the interpreter's memory map, which takes as
        long as starting a bash.
        """
        os.chdir(cwd)
        streams = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((stdin, sink, sink))]
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
        except BlockingIOError:  # processes in the background have used up the limit
            self._watch(frozenset(), SPARE)
            pid = start()
        self.children = True
        if self.config["kind"] == "docker":  # when memory runs out, the kernel should spare us
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
        """Move bytes in both directions until the shell ends or its time is over.

        Args:
            shell: Process id of the shell.
            source: Read end of its output.
            output: Collects what is read.
            feed: Write end of its input; closed here.
            stdin: Bytes to write to it.
            deadline: On the monotonic clock.
            older: Processes of earlier commands, which a check of the limits must spare.

        Returns:
            The wait status of the shell, or None if the deadline has passed.

        Raises:
            wire.Gone: The parent has ended or closed its end.
        """
        pidfd = os.pidfd_open(shell)
        left = memoryview(stdin)
        self.poll.modify(self.sock, select.POLLRDHUP)  # only to notice the end of the parent
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
        """Read what the pipe holds now, and keep it open if a background child still writes to it.

        Closing it would kill that child with SIGPIPE. Its later output is read and dropped.
        """
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
        """Drop output of a background child; close the pipe at its end."""
        if fd in self.drains and _read_some(fd) == b"":
            self.poll.unregister(fd)
            self.drains.discard(fd)
            os.close(fd)

    def _reap(self) -> None:
        """Collect the exit status of all ended children, orphans included."""
        while self.children:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                self.children = False

    def _watch(self, older: frozenset[int], spare: int = 0) -> None:
        """Enforce the limits on memory and processes by best effort.

        Above the limit on processes (less ``spare``), all but ``older`` and their children are
        killed. Above the limit on memory, the largest processes are.
        """
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
    """Up to one chunk; None if the pipe is empty now, and empty bytes at its end."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None


def _feed(fd: int, data: memoryview) -> memoryview:
    """Write one chunk. Returns what is left to write: nothing if the reader has closed the pipe."""
    try:
        return data[os.write(fd, data[:CHUNK]) :] if data else data
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]
