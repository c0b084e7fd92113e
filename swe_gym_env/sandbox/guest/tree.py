"""The processes below the supervisor: who they are, what they use, how to end them."""

from __future__ import annotations

import contextlib
import os
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def _table() -> tuple[dict[int, int], set[int]]:
    """(pid -> parent, the pids that are not just waiting to be reaped), as /proc shows them."""
    parents, alive = {}, set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as handle:
                state, parent = handle.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it ended meanwhile
        parents[int(name)] = int(parent)
        if state not in (b"Z", b"X"):
            alive.add(int(name))
    return parents, alive


def living(spare: frozenset[int] = frozenset()) -> list[int]:
    """All living descendants of this process, except ``spare`` and what descends from it."""
    parents, alive = _table()
    me = os.getpid()

    def ours(pid: int) -> bool:
        while pid in parents and pid != me:
            if pid in spare:
                return False
            pid = parents[pid]
        return pid == me

    return [pid for pid in alive if pid != me and ours(pid)]


def send_kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 9)


def kill(spare: frozenset[int], namespace: bool) -> None:
    """End every descendant that is not spared, however fast they multiply.

    In a PID namespace of our own the kernel can do that in one stroke.
    """
    for attempt in range(100):
        if namespace and (not spare or attempt > 20):
            send_kill(-1)
        victims = living(spare)
        if not victims:
            return
        for pid in victims:
            send_kill(pid)
        time.sleep(0.001)


def over_limit(processes: list[int], limit: int) -> list[int]:
    """Whom to end so that the others use at most ``limit`` bytes together, the largest first."""
    sizes = {pid: _resident(pid) for pid in processes}
    if sum(sizes.values()) <= limit:
        return []
    # Pages that forked processes share were counted once for each: look closer before killing.
    sizes = {pid: _proportional(pid, size) for pid, size in sizes.items()}
    used, victims = sum(sizes.values()), []
    for pid in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if used <= limit:
            break
        victims.append(pid)
        used -= sizes[pid]
    return victims


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as handle:
            return int(handle.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int, otherwise: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as handle:
            for line in handle:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return otherwise
