"""Linux calls that Python 3.11 does not offer, through ctypes.

Building a root out of detached mounts needs the mount calls of Linux 5.12, which neither ``os`` nor
the tools of util-linux give us in one process; starting a program for each would cost more time
than the whole sandbox may take.
"""

from __future__ import annotations

import ctypes
import os

ARCH = os.uname().machine
X86 = ARCH == "x86_64"
SUPPORTED = ARCH in ("x86_64", "aarch64")

# Calls whose number differs between the two architectures; newer ones have the same everywhere.
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

_libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: keep the interpreter lock across clone


class _MountAttr(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *args: int | bytes | None, what: str = "system call") -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in args]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), what)


def prctl(option: int, value: int = 0, pointer: int = 0) -> None:
    args = [ctypes.c_ulong(v) for v in (value, pointer, 0, 0)]
    _check(_libc.prctl(option, *args), f"prctl({option})")


def default_signal(number: int) -> None:
    """Python ignores or handles some signals; a program started from it must not inherit that."""
    _libc.signal(number, None)


def fork_into(flags: int) -> int:
    """fork() whose child starts in new namespaces. Returns 0 in the child."""
    return syscall(NR_CLONE, flags | 17, 0, 0, 0, 0, what="clone(new namespaces)")


def make_private() -> None:
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")


def clone_tree(path: str) -> int:
    """A detached copy of everything mounted at ``path``, as a descriptor."""
    flags = OPEN_TREE_CLONE | CLOEXEC | AT_RECURSIVE
    return syscall(NR_OPEN_TREE, AT_FDCWD, path.encode(), flags, what=f"open_tree({path})")


def set_attributes(fd: int, attributes: int, userns: int = 0, recursive: bool = True) -> None:
    attr = _MountAttr(attributes, 0, 0, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    pointer = ctypes.cast(ctypes.pointer(attr), ctypes.c_void_p).value or 0
    size = ctypes.sizeof(attr)
    syscall(NR_MOUNT_SETATTR, fd, b"", flags, pointer, size, what="mount_setattr")


def new_filesystem(kind: str, attributes: int, **options: str) -> int:
    """A detached new mount of a file system, as a descriptor."""
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
    """Mount what ``fd`` stands for at ``path``."""
    args = (fd, b"", AT_FDCWD, path.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    syscall(NR_MOVE_MOUNT, *args, what=f"move_mount to {path}")


def detach(path: str) -> None:
    _check(_libc.umount2(path.encode(), MNT_DETACH), f"umount2({path})")


def enter_root(path: str) -> None:
    """Make the mount at ``path`` the root and let go of the old one."""
    os.chdir(path)
    syscall(NR_PIVOT_ROOT, b".", b".", what="pivot_root")
    detach(".")
    os.chdir("/")


def bring_up_loopback() -> None:
    import fcntl
    import struct

    sock = syscall(NR_SOCKET, 2, 2, 0, what="socket")
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
    os.close(sock)


def name_host(name: bytes) -> None:
    _check(_libc.sethostname(name, len(name)), "sethostname")


def drop_privileges() -> None:
    """No capability now, none to be had by exec, and no way to gain any."""
    prctl(28, 0x2F)  # securebits: uid 0 means nothing here, and that is locked
    for capability in range(64):
        try:
            prctl(24, capability)
        except OSError:
            break
    prctl(47, 4)  # clear the ambient set
    header = ctypes.create_string_buffer(b"\x22\x05\x08\x20" + bytes(4), 8)  # version 3, self
    nothing = ctypes.create_string_buffer(24)
    address = [ctypes.addressof(header), ctypes.addressof(nothing)]
    syscall(NR_CAPSET, *address, what="capset")
    prctl(38, 1)  # no_new_privs
