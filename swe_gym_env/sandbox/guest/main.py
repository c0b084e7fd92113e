"""From a request to a supervisor in its sandbox.

Starting an interpreter costs more than making a sandbox, so each parent keeps one warm
(``nursery``), which forks for every sandbox. That child stays outside and only waits, holding the
socket: when the parent reads its end, everything in the sandbox is gone. The child's child enters
all the new namespaces at once and becomes their process 1. Real root is never mapped: started as
root, the sandbox is owned by an ordinary uid that nobody else uses.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct

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
    """Fork for every socket that comes through ``control_fd``, until the parent has gone."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    watch = select.poll()
    gone = os.pidfd_open(parent)
    for fd in (gone, control_fd):
        watch.register(fd, select.POLLIN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
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
        control.send(struct.pack("!i", pid))  # whom the parent may kill should it not answer


def _main(sock: int, parent: int) -> None:
    try:
        config = receive(sock)
        if config["kind"] == "process":
            kernel.prctl(36, 1)  # orphans come to us
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
    pieces = root.Pieces(config) if config["as_root"] else None
    wait, go = os.pipe()
    pid = kernel.fork_into(NAMESPACES)
    if pid == 0:
        os.close(go)
        if os.read(wait, 1):
            _inside(sock, parent, config, pieces)
        os._exit(1)
    if not config["as_root"]:
        with open(f"/proc/{pid}/setgroups", "w") as handle:
            handle.write("deny")
    root.write_maps(pid, (INSIDE, config["uid"]), (INSIDE, config["gid"]))
    os.write(go, b"x")
    if config["as_root"]:
        os.setgroups([])
        os.setresgid(*[config["gid"]] * 3)
        os.setresuid(*[config["uid"]] * 3)
    _close_all_but(sock)
    os.waitpid(pid, 0)
    os._exit(0)


def _inside(sock: int, parent: int, config: root.Config, pieces: root.Pieces | None) -> None:
    try:
        if config["as_root"]:
            os.setgroups([])
            os.setresgid(INSIDE, INSIDE, INSIDE)
            os.setresuid(INSIDE, INSIDE, INSIDE)
            kernel.prctl(4, 1)  # changing the uid took our own /proc/self from us
        config["uid"] = config["gid"] = INSIDE
        os.setsid()
        os.umask(0o022)
        with open("/proc/self/oom_score_adj", "w") as handle:
            handle.write("500")  # should the host run out of memory, sandboxes go first
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
        kernel.prctl(4, 0)  # not dumpable: nobody in the sandbox may look into this process
        kernel.prctl(1, 9)  # die with the process outside
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
