"""Linux system calls that Python 3.11 does not offer, called through ctypes.

A root file system made of detached mounts needs the mount calls of Linux 5.12. ``os`` does not have
them, and starting a tool of util-linux for each call would take more time than the whole sandbox
may take. All functions raise OSError with the error number and the name of the call that failed.
"""

from __future__ import annotations

import ctypes
import os

ARCH = os.uname().machine
X86 = ARCH == "x86_64"
SUPPORTED = ARCH in ("x86_64", "aarch64")

# Numbers of system calls. The older ones differ between the two architectures.
NR_CLONE = 56 if X86 else 220
NR_PIVOT_ROOT = 155 if X86 else 41
NR_CAPSET = 126 if X86 else 91
NR_SOCKET = 41 if X86 else 198
NR_OPEN_TREE, NR_MOVE_MOUNT, NR_FSOPEN, NR_FSCONFIG, NR_FSMOUNT = 428, 429, 430, 431, 432
NR_MOUNT_SETATTR = 442

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
CLONE_NEW_ANY = 0x7E020000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 1 << 18, 2
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
RDONLY, NOSUID, NODEV, NOEXEC, IDMAP = 1, 2, 4, 8, 0x100000

# PyDLL, not CDLL: the interpreter lock must be held across clone(), since the child has one thread
# and would wait forever for a lock that another thread of the parent held.
_libc = ctypes.PyDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = [(n, ctypes.c_uint64) for n in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *args: int | bytes | None, what: str = "system call") -> int:
    """Call the kernel. ``what`` names the call in the message of an error."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in args]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), what)


def prctl(option: int, value: int = 0, pointer: int = 0) -> None:
    """prctl(2) on this process; the options are those of ``linux/prctl.h``."""
    args = [ctypes.c_ulong(v) for v in (value, pointer, 0, 0)]
    _check(_libc.prctl(option, *args), f"prctl({option})")


def default_signal(number: int) -> None:
    """Give a signal its default action.

    Python ignores or handles some signals, and a program that it starts must not inherit that.
    """
    _libc.signal(number, None)


def fork_into(flags: int) -> int:
    """Like fork(), but the child starts in new namespaces.

    Args:
        flags: The ``CLONE_NEW*`` namespaces to make.

    Returns:
        The child's process id in the parent, 0 in the child.
    """
    # 17 is SIGCHLD: the parent waits for the child as for any other.
    return syscall(NR_CLONE, flags | 17, 0, 0, 0, 0, what="clone(new namespaces)")


def make_private() -> None:
    """Stop mounts of this namespace from propagating to the host, and the host's to this one."""
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")


def clone_tree(path: str) -> int:
    """A detached copy of everything that is mounted at ``path``, as a file descriptor.

    A detached mount is not attached to any path. It disappears with the last descriptor to it.
    """
    flags = OPEN_TREE_CLONE | CLOEXEC | AT_RECURSIVE
    return syscall(NR_OPEN_TREE, AT_FDCWD, path.encode(), flags, what=f"open_tree({path})")


def set_attributes(fd: int, attributes: int, userns: int = 0, recursive: bool = True) -> None:
    """Restrict a mount.

    Args:
        fd: Descriptor of the mount.
        attributes: ``RDONLY``, ``NOSUID``, ``NODEV``, ``NOEXEC`` and ``IDMAP``, combined.
        userns: Descriptor of the user namespace whose mapping of owners ``IDMAP`` applies.
        recursive: Whether mounts below it are restricted too.
    """
    attr = _MountAttr(attributes, 0, 0, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    pointer = ctypes.cast(ctypes.pointer(attr), ctypes.c_void_p).value or 0
    size = ctypes.sizeof(attr)
    syscall(NR_MOUNT_SETATTR, fd, b"", flags, pointer, size, what="mount_setattr")


def new_filesystem(kind: str, attributes: int, **options: str) -> int:
    """Mount a new file system without attaching it.

    Args:
        kind: Type of the file system, such as ``tmpfs``.
        attributes: As for :func:`set_attributes`.
        options: Mount options. An empty value stands for an option without a value.

    Returns:
        A descriptor of the detached mount.
    """
    fs = syscall(NR_FSOPEN, kind.encode(), 1, what=f"fsopen({kind})")
    try:
        for key, value in options.items():
            what = f"{kind} option {key}={value}"
            if value:
                syscall(NR_FSCONFIG, fs, 1, key.encode(), value.encode(), 0, what=what)
            else:
                syscall(NR_FSCONFIG, fs, 0, key.encode(), None, 0, what=what)
        syscall(NR_FSCONFIG, fs, 6, None, None, 0, what=f"making a {kind}")
        return syscall(NR_FSMOUNT, fs, 1, attributes, what=f"mounting a {kind}")
    finally:
        os.close(fs)


def attach(fd: int, path: str) -> None:
    """Attach the detached mount ``fd`` at ``path``."""
    args = (fd, b"", AT_FDCWD, path.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    syscall(NR_MOVE_MOUNT, *args, what=f"move_mount to {path}")


def detach(path: str) -> None:
    """Unmount ``path``; the file system remains while it is in use."""
    _check(_libc.umount2(path.encode(), MNT_DETACH), f"umount2({path})")


def enter_root(path: str) -> None:
    """Make the mount at ``path`` the root of this namespace and unmount the old root.

    pivot_root(".", ".") puts the old root on top of the new one, so that no folder for it is needed
    and unmounting "." removes it.
    """
    os.chdir(path)
    syscall(NR_PIVOT_ROOT, b".", b".", what="pivot_root")
    detach(".")
    os.chdir("/")


def bring_up_loopback() -> None:
    """Start the interface ``lo`` of a new network namespace, which has no other interface."""
    import fcntl
    import struct

    sock = syscall(NR_SOCKET, 2, 2, 0, what="socket")
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
    os.close(sock)


def name_host(name: bytes) -> None:
    _check(_libc.sethostname(name, len(name)), "sethostname")


def drop_privileges() -> None:
    """Give up all capabilities, so that no later exec can gain one again.

    The order matters: removing a capability from the bounding set needs a capability (CAP_SETPCAP),
    so the sets of the process itself are emptied last.
    """
    prctl(28, 0x2F)  # PR_SET_SECUREBITS: uid 0 grants no capabilities, and this is locked
    for capability in range(64):
        try:
            prctl(24, capability)  # PR_CAPBSET_DROP
        except OSError:
            break  # the kernel has no capability of this number
    prctl(47, 4)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    # capset(2): a header (version 3 of the interface, this process) and three empty sets
    header = ctypes.create_string_buffer(b"\x22\x05\x08\x20" + bytes(4), 8)
    nothing = ctypes.create_string_buffer(24)
    address = [ctypes.addressof(header), ctypes.addressof(nothing)]
    syscall(NR_CAPSET, *address, what="capset")
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS: a set-uid program gains nothing
