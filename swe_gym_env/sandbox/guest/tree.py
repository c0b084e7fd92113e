"""The processes below the supervisor: which ones live, how much memory they use, and their end.

/proc is read process by process, so a table is never a snapshot: processes start and end while it
is made. All functions therefore tolerate missing processes, and ``kill`` repeats until none is
left.
"""

from __future__ import annotations

import contextlib
import os
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def _table() -> tuple[dict[int, int], set[int]]:
    """(parent of each process id, ids of processes that are not zombies), as /proc shows them."""
    parents, alive = {}, set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as handle:
                state, parent = handle.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended in the meantime
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
    """SIGKILL to a process, or with -1 to all that this process may signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 9)


def kill(spare: frozenset[int], namespace: bool) -> None:
    """Kill every descendant that is not in ``spare`` or below it, however fast they fork.

    Args:
        spare: Process ids that must live on.
        namespace: Whether this process is process 1 of a PID namespace. Then ``kill(-1)`` reaches
            every process at once, which a fork bomb cannot outrun. It spares nobody, so with a
            ``spare`` it is used only after 20 attempts have failed.
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
    """The processes to kill so that the others use at most ``limit`` bytes, the largest first."""
    sizes = {pid: _resident(pid) for pid in processes}
    if sum(sizes.values()) <= limit:
        return []
    # The resident size counts a page that several processes share once for each of them. The
    # proportional size divides it among them, but takes longer to read.
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
