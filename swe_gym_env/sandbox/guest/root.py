"""The root file system of a sandbox: which parts of the host it sees, and where it may write.

It is built in two steps. First every part is opened as a detached mount by a process that may read
it (``Pieces``: real root if the program runs as root, otherwise the owner of the sandbox). Then,
inside the new namespaces, the parts are attached to an empty root and the old root is unmounted
(``build``). Nothing is created on the host's disk, so nothing can be left there.

The layout: host folders read-only; the image's tree at ``workdir`` as the lower layer of an overlay
whose upper layer is in memory; ``/tmp``, the home folder and ``/dev/shm`` writable in memory. All
that can be written lies on one tmpfs, so one size limit holds for everything together.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from . import kernel

Config = dict[str, Any]
DEVICES = ("null", "zero", "full", "random", "urandom")
WRITABLE = ("upper", "work", "tmp", "home", "shm")  # folders of the tmpfs
# Files of /proc that show the host's kernel, or control it
SECRETS = ("kcore", "keys", "key-users", "kallsyms", "timer_list", "sched_debug", "sysrq-trigger")
SAFE = kernel.RDONLY | kernel.NOSUID | kernel.NODEV


class Pieces:
    """File descriptors of detached mounts, ready to be attached.

    Attributes:
        binds: (descriptor, path in the sandbox) of the host's folders and files, read-only.
        devices: (descriptor, name below /dev).
        disk: The tmpfs on which everything writable lies.
        tree: The image's tree, read-only. None if it was copied to ``disk`` instead, because
            this kernel cannot make an overlay over it for this user.
    """

    def __init__(self, config: Config) -> None:
        uid, gid = config["uid"], config["gid"]
        self.binds = [(read_only(host), sandbox) for host, sandbox in config["binds"]]
        self.devices = [(kernel.clone_tree(f"/dev/{name}"), name) for name in DEVICES]
        for fd, _ in self.devices:
            kernel.set_attributes(fd, kernel.NOSUID | kernel.NOEXEC)
        size = {"size": str(config["disk"]), "nr_inodes": str(config["inodes"]), "mode": "755"}
        self.disk = kernel.new_filesystem("tmpfs", kernel.NOSUID | kernel.NODEV, **size)
        for name in WRITABLE:
            os.mkdir(name, dir_fd=self.disk)
            os.chown(name, uid, gid, dir_fd=self.disk)
        for name in ("tmp", "shm"):
            os.chmod(f"/proc/self/fd/{self.disk}/{name}", 0o1777)
        self.tree: int | None = None
        if not config["copy"] and has_user_xattr(self.disk):
            self.tree = shifted(config["tree"], uid, gid) if config["as_root"] else None
            self.tree = self.tree or (None if config["as_root"] else read_only(config["tree"]))
        if self.tree is None:
            copy_tree(config["tree"], f"/proc/self/fd/{self.disk}/tree", uid, gid)


def read_only(path: str) -> int:
    """A detached read-only mount of ``path``."""
    fd = kernel.clone_tree(path)
    kernel.set_attributes(fd, SAFE)
    return fd


def has_user_xattr(disk: int) -> bool:
    """Whether the tmpfs can be the upper layer of an overlay.

    Overlayfs in a user namespace stores its state in ``user.*`` attributes of files, which tmpfs
    has since Linux 6.6.
    """
    try:
        os.setxattr(f"/proc/self/fd/{disk}/upper", "user.overlay.probe", b"y")
        os.removexattr(f"/proc/self/fd/{disk}/upper", "user.overlay.probe")
    except OSError:
        return False
    return True


def shifted(tree: str, uid: int, gid: int) -> int | None:
    """Mount the tree so that its owner appears as the owner of the sandbox.

    This is an ID-mapped mount: the kernel takes the mapping from a user namespace, so a helper
    process is forked into a new one and ends as soon as the mapping has been read.

    Returns:
        A descriptor of the detached mount, or None if the file system does not support this.
    """
    fd = read_only(tree)
    owner = os.stat(tree)
    if (owner.st_uid, owner.st_gid) == (uid, gid):
        return fd
    wait, go = os.pipe()
    helper = kernel.fork_into(kernel.CLONE_NEWUSER)
    if helper == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    try:
        write_maps(helper, (owner.st_uid, uid), (owner.st_gid, gid))
        namespace = os.open(f"/proc/{helper}/ns/user", os.O_RDONLY)
        kernel.set_attributes(fd, kernel.IDMAP, userns=namespace, recursive=False)
        os.close(namespace)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return None
    finally:
        os.close(wait)
        os.close(go)
        os.waitpid(helper, 0)
    return fd


def write_maps(pid: int, uids: tuple[int, int], gids: tuple[int, int]) -> None:
    """Map one user and one group, each (inside, outside), into the user namespace of ``pid``."""
    for kind, (inside, outside) in (("uid", uids), ("gid", gids)):
        with open(f"/proc/{pid}/{kind}_map", "w") as handle:
            handle.write(f"{inside} {outside} 1")


def copy_tree(source: str, target: str, uid: int, gid: int) -> None:
    """Copy the tree, for kernels without ID-mapped mounts or overlays in a user namespace.

    It takes time in proportion to the size of the tree.
    """
    import shutil

    shutil.copytree(source, target, symlinks=True)
    for folder, names, files in os.walk(target):
        for path in (folder, *(f"{folder}/{name}" for name in (*names, *files))):
            os.chown(path, uid, gid, follow_symlinks=False)


def build(config: Config, pieces: Pieces) -> None:
    """Attach all parts to an empty root and make it the root of this process.

    Must run inside the new namespaces, with ``pieces`` opened before. /proc and the root itself
    become read-only last, since the steps before write to them.
    """
    proc = kernel.new_filesystem("proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    root = kernel.new_filesystem("tmpfs", kernel.NOSUID | kernel.NODEV, size="16m", mode="755")
    kernel.attach(root, "/tmp")
    kernel.enter_root("/tmp")
    for fd, sandbox in pieces.binds:
        place(fd, sandbox)
    for link, target in config["links"]:
        os.symlink(target, link)
    for path, data in config["files"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as handle:
            handle.write(data)
    _devices(pieces)
    place(proc, "/proc")
    _writable(config, pieces)
    _hide([*config["masks"], *(f"/proc/{name}" for name in SECRETS)])
    _no_nested_namespaces()
    kernel.set_attributes(proc, SAFE | kernel.NOEXEC, recursive=False)
    kernel.set_attributes(root, SAFE, recursive=False)


def place(fd: int, path: str) -> None:
    """Attach the mount ``fd`` at ``path``, which is created if it does not exist."""
    if not os.path.lexists(path):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.makedirs(path)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    kernel.attach(fd, path)


def _devices(pieces: Pieces) -> None:
    for fd, name in pieces.devices:
        place(fd, f"/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")


def _no_nested_namespaces() -> None:
    """Forbid new namespaces below this one.

    It comes after all mounts, because a detached mount counts as a mount namespace too.
    """
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        try:
            with open(f"/proc/sys/user/max_{name}_namespaces", "w") as handle:
                handle.write("0")
        except OSError:
            if name == "user":
                raise


def _writable(config: Config, pieces: Pieces) -> None:
    """Attach the writable parts, which all lie on one file system of limited size.

    The tmpfs and the lower layer are attached for a moment only, since ``clone_tree`` and overlayfs
    need paths. The sandbox then sees them only through the mounts made from them.
    """
    disk, lower = "/.disk", "/.lower"
    place(pieces.disk, disk)
    for name, path in (("tmp", "/tmp"), ("home", config["home"]), ("shm", "/dev/shm")):
        place(kernel.clone_tree(f"{disk}/{name}"), path)
    os.makedirs("/var", exist_ok=True)
    os.symlink("/tmp", "/var/tmp")
    if pieces.tree is None:
        place(kernel.clone_tree(f"{disk}/tree"), config["workdir"])
    else:
        place(pieces.tree, lower)
        layers = {"upperdir": f"{disk}/upper", "workdir": f"{disk}/work"}
        flags = kernel.NOSUID | kernel.NODEV
        overlay = kernel.new_filesystem("overlay", flags, lowerdir=lower, **layers, userxattr="")
        place(overlay, config["workdir"])
        kernel.detach(lower)
        os.rmdir(lower)
    kernel.detach(disk)
    os.rmdir(disk)


def _hide(paths: list[str]) -> None:
    """Cover each folder with an empty folder and each file with an empty file."""
    os.mkdir("/.empty", 0o555)
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):  # each once
        if os.path.isdir(path):
            cover = kernel.clone_tree("/.empty")
            kernel.set_attributes(cover, SAFE)
        elif os.path.exists(path):
            cover = kernel.clone_tree("/dev/null")
        else:
            continue
        kernel.attach(cover, path)
        os.close(cover)
    os.rmdir("/.empty")
