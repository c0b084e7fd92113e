"""Make a sandbox from a request, and start the supervisor in it.

Four processes take part:

1. The *parent* is the program that uses the sandbox (``client.py``).
2. The *nursery* is a warm interpreter that the parent keeps, because starting an interpreter takes
   longer than making a sandbox. It forks once for each sandbox.
3. The *outer* process is that fork. It stays outside of the sandbox, writes the maps of users and
   groups, and then only waits. It holds the socket, so when the parent reads the end of the stream,
   all processes of the sandbox have ended.
4. The *inner* process is a child of the outer one. It enters all new namespaces at once, becomes
   their process 1 and runs the supervisor. When it ends, the kernel kills the rest of the sandbox.

Real root is never mapped into a sandbox. If the program runs as root, each sandbox belongs to an
ordinary user id that no other program uses.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator

from . import kernel, root, seccomp
from .supervisor import Supervisor
from .wire import receive, reply_error, reply_ready

NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
INSIDE = 1000  # uid and gid in the sandbox


def nursery(control_fd: int, parent: int) -> None:
    """Fork an outer process for each socket that is received, until the parent has ended.

    Args:
        control_fd: Socket to the parent. Each message carries the descriptor of one new sandbox's
            socket; the answer is the process id of the fork.
        parent: Process id of the parent.
    """
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    watch = select.poll()
    gone = os.pidfd_open(parent)
    for fd in (gone, control_fd):
        watch.register(fd, select.POLLIN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    while not any(fd == gone for fd, _ in watch.poll()):
        _, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not fds:
            return
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _main(fds[0], gone)
        os.close(fds[0])
        control.send(struct.pack("!i", pid))  # the parent may kill it if it does not answer


def _main(sock: int, parent: int) -> None:
    """The outer process: read the configuration and start the sandbox that it describes."""
    try:
        config = receive(sock)
        if config["kind"] == "process":
            kernel.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become our children
            os.setsid()
            reply_ready(sock)
            Supervisor(sock, parent, config).serve()
        else:
            _start_sandbox(sock, parent, config)
    except BaseException as error:
        reply_error(sock, error)
        os._exit(1)
    os._exit(0)


def _start_sandbox(sock: int, parent: int, config: root.Config) -> None:
    """Fork the inner process, map its user and group, and wait for its end.

    The inner process must not run before its maps are written, since until then it has no user. It
    waits for one byte on a pipe; if this process fails, the pipe is closed without that byte and it
    ends. Mounts that only real root may open are opened here, before the fork.
    """
    pieces = root.Pieces(config) if config["as_root"] else None
    wait, go = os.pipe()
    with _as_user(config["uid"]) if config["as_root"] else contextlib.nullcontext():
        pid = kernel.fork_into(NAMESPACES)
    if pid == 0:
        os.close(go)
        if os.read(wait, 1):
            _inside(sock, parent, config, pieces)
        os._exit(1)
    if not config["as_root"]:
        with open(f"/proc/{pid}/setgroups", "w") as handle:
            handle.write("deny")  # the kernel requires it before an ordinary user maps a group
    root.write_maps(pid, (INSIDE, config["uid"]), (INSIDE, config["gid"]))
    os.write(go, b"x")
    if config["as_root"]:
        os.setgroups([])
        os.setresgid(*[config["gid"]] * 3)
        os.setresuid(*[config["uid"]] * 3)
    _close_all_but(sock)
    os.waitpid(pid, 0)
    os._exit(0)


@contextlib.contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Be another user with the capabilities of root.

    What a sandbox uses of the kernel is charged to the user who made its namespace, so a namespace
    that root makes would share root's limits with all others.
    """
    here = os.getpid()
    kernel.prctl(28, 4)  # PR_SET_SECUREBITS: a change of the uid leaves the capabilities
    os.seteuid(uid)
    try:
        yield
    finally:
        if os.getpid() == here:  # not in a child, which has no root in its namespace
            os.seteuid(0)
            kernel.prctl(28, 0)


def _inside(sock: int, parent: int, config: root.Config, pieces: root.Pieces | None) -> None:
    """The inner process, process 1 of the sandbox.

    It builds the root file system, gives up all privileges and then serves requests. The order is
    part of the isolation: mounting needs capabilities, so they are dropped after it; the
    system-call filter forbids calls that the steps before need, so it comes last.
    """
    try:
        if config["as_root"]:
            os.setgroups([])
            os.setresgid(INSIDE, INSIDE, INSIDE)
            os.setresuid(INSIDE, INSIDE, INSIDE)
            # PR_SET_DUMPABLE on: a change of the uid turns it off, and then /proc/self is root's
            kernel.prctl(4, 1)
        config["uid"] = config["gid"] = INSIDE
        os.setsid()
        os.umask(0o022)
        with open("/proc/self/oom_score_adj", "w") as handle:
            handle.write("500")  # if the host runs out of memory, sandboxes are killed first
        kernel.make_private()
        root.build(config, pieces or root.Pieces(config))
        kernel.bring_up_loopback()
        kernel.name_host(b"sandbox")
        os.close(0)
        for stream in range(3):
            if stream:
                os.close(stream)
            os.open("/dev/null", os.O_RDWR)
        _close_all_but(sock, parent)
        kernel.drop_privileges()
        # PR_SET_DUMPABLE off: no process of the sandbox may read the memory or files of this one
        kernel.prctl(4, 0)
        kernel.prctl(1, 9)  # PR_SET_PDEATHSIG: SIGKILL when the outer process ends
        seccomp.install()
    except BaseException as error:
        reply_error(sock, error)
        os._exit(1)
    reply_ready(sock)
    Supervisor(sock, parent, config).serve()
    os._exit(0)


def _close_all_but(*keep: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))
