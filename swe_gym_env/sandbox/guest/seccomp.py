"""A filter of system calls, assembled as BPF here so that no library is needed.

A sandbox has no capabilities, so most of these calls would fail in any case. The filter keeps code
that a model wrote away from the parts of the kernel in which vulnerabilities are found most often.

The filter is a list of 8-byte instructions of classic BPF: operation, jump if true, jump if false,
value. Jumps count the instructions to skip. The kernel runs it for each system call on ``struct
seccomp_data``, from which it loads the call's number, the architecture and the lower half of an
argument (offsets ``_NR``, ``_ARCH``, ``_ARG0``, ``_ARG1``). The first return decides. Loading an
argument overwrites the number of the call, so checks of arguments always end with a return
(``_on``).
"""

from __future__ import annotations

import ctypes
import struct

from . import kernel

EPERM, ENOSYS, EOPNOTSUPP, EAFNOSUPPORT = 1, 38, 95, 97

# These fail with EPERM. Name: number on (x86_64, aarch64), 0 if the architecture has no such call.
DENIED = {
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "modify_ldt": (154, 0),
    "vhangup": (153, 58),
    "pivot_root": (155, 41),
    "adjtimex": (159, 171),
    "chroot": (161, 51),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, 0),
    "ioperm": (173, 0),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "lookup_dcookie": (212, 18),
    "clock_settime": (227, 112),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "migrate_pages": (256, 238),
    "unshare": (272, 97),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443),
    "open_tree_attr": (467, 467),
}
# These fail with ENOSYS, as on a kernel without them, so that programs use their fallback. They
# allocate memory that our limits would not count. clone3 passes its flags in memory, which a filter
# cannot read; with clone, which programs then use, it can.
ABSENT = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "memfd_create": (319, 279),
    "clone3": (435, 435),
    "memfd_secret": (447, 447),
}
# These fail with EOPNOTSUPP, as on a file system without extended attributes, which programs
# expect: attributes and ACLs take memory that the limits of the tmpfs do not count.
UNSUPPORTED = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
}
# Scheduling of other processes: the supervisor, process 1, has the same uid as the sandbox, and
# would miss its time limits. Their first argument is a pid.
SCHEDULING = {
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
# Their first argument is the kind of the second: one process, a group of them, or a user's.
PRIORITY = {"setpriority": ((141, 140), 0), "ioprio_set": ((251, 30), 1)}
# AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. Others, such as AF_VSOCK, would bypass the network
# namespace.
SOCKET_FAMILIES = (1, 2, 10, 16)
TERMINAL_TRICKS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they write input to a terminal

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _fail(error: int) -> bytes:
    return _op(_RETURN, _ERRNO | error)


def program() -> bytes:
    """The filter for this machine's architecture, as the bytes of its instructions."""
    column = 0 if kernel.X86 else 1
    # Calls of another architecture (32-bit programs) have other numbers: they are refused.
    ops = [_op(_LOAD, _ARCH), _op(_EQUAL, 0xC000003E if kernel.X86 else 0xC00000B7, yes=1)]
    ops += [_fail(ENOSYS), _op(_LOAD, _NR)]
    if kernel.X86:  # the same calls have a second set of numbers (x32): they are refused
        ops += [_op(_AT_LEAST, 0x40000000, no=1), _fail(ENOSYS)]
    tables = ((DENIED, EPERM), (ABSENT, ENOSYS), (UNSUPPORTED, EOPNOTSUPP))
    for table, error in tables:
        for numbers in table.values():
            if numbers[column]:
                ops += [_op(_EQUAL, numbers[column], no=1), _fail(error)]
    ops += _on((56, 220)[column], _ARG0, [_op(_ANY_BIT, kernel.CLONE_NEW_ANY, no=1), _fail(EPERM)])
    tricks = [_op(_EQUAL, t, no=1) + _fail(EPERM) for t in TERMINAL_TRICKS]
    ops += _on((16, 29)[column], _ARG1, tricks)
    # prlimit64 only on the calling process (pid 0): the supervisor has the same uid
    ops += _on((302, 261)[column], _ARG0, [_op(_EQUAL, 0, yes=1), _fail(EPERM)])
    not_first = [_op(_EQUAL, 1, no=1), _fail(EPERM)]
    for calls in SCHEDULING.values():
        ops += _on(calls[column], _ARG0, not_first)
    for calls, one_process in PRIORITY.values():
        only = [_op(_EQUAL, one_process, yes=1), _fail(EPERM)]
        ops += _on(calls[column], _ARG0, [*only, _op(_LOAD, _ARG1), *not_first])
    families = b"".join(
        _op(_EQUAL, f, yes=len(SOCKET_FAMILIES) - i) for i, f in enumerate(SOCKET_FAMILIES)
    )
    for call in ((41, 198)[column], (53, 199)[column]):
        ops += _on(call, _ARG0, [families, _fail(EAFNOSUPPORT)])
    return b"".join([*ops, _op(_RETURN, _ALLOW)])


def _on(number: int, argument: int, checks: list[bytes]) -> list[bytes]:
    """Check an argument of the call ``number``, which is allowed if no check fails it."""
    block = b"".join([_op(_LOAD, argument), *checks, _op(_RETURN, _ALLOW)])
    return [_op(_EQUAL, number, no=len(block) // 8), block]


class _Program(ctypes.Structure):
    """``struct sock_fprog``: the number of instructions and a pointer to them."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install() -> None:
    """Apply the filter to this process and all its later children. It cannot be removed.

    Must run after ``kernel.drop_privileges``, which sets no_new_privs: without it the kernel
    accepts a filter from privileged processes only.
    """
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    head = _Program(len(code) // 8, ctypes.addressof(buffer))
    kernel.prctl(22, 2, ctypes.addressof(head))
