"""From a freshly started interpreter to a supervisor in its box.

The process that the parent starts stays outside and only waits, so that the parent has a child to
wait for. Its own child enters all the new namespaces at once and becomes their process 1. Real root
is never mapped: started as root, the box is owned by an ordinary uid that nobody else uses.
"""

from __future__ import annotations

import os
import sys

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
INSIDE = 1000  # uid and gid in the box


def main(sock: int) -> None:
    os.set_inheritable(sock, False)
    try:
        config = receive(sock)
        parent = os.pidfd_open(config["parent"])
        if config["kind"] == "process":
            kernel.prctl(36, 1)  # orphans come to us
            reply_ready(sock)
            Supervisor(sock, parent, config).serve()
        else:
            _start_box(sock, parent, config)
    except BaseException as error:
        reply_error(sock, error)
        os._exit(1)
    os._exit(0)


def _start_box(sock: int, parent: int, config: root.Config) -> None:
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
    os.closerange(3, 4096)
    os.waitpid(pid, 0)
    os._exit(0)


def _inside(sock: int, parent: int, config: root.Config, pieces: root.Pieces | None) -> None:
    try:
        if config["as_root"]:
            os.setgroups([])
            os.setresgid(INSIDE, INSIDE, INSIDE)
            os.setresuid(INSIDE, INSIDE, INSIDE)
        config["uid"] = config["gid"] = INSIDE
        os.setsid()
        os.umask(0o022)
        kernel.make_private()
        root.build(config, pieces or root.Pieces(config))
        kernel.bring_up_loopback()
        kernel.name_host(b"box")
        os.close(0)
        for stream in range(3):
            if stream:
                os.close(stream)
            os.open("/dev/null", os.O_RDWR)
        _close_all_but(sock, parent)
        kernel.drop_privileges()
        kernel.prctl(4, 0)  # not dumpable: nobody in the box may look into this process
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
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


if __name__ == "__main__":
    main(int(sys.argv[1]))
