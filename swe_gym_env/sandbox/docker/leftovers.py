"""Make sure that no container outlives the process that made it, wherever that process was killed.

A started sandbox ends with its standard input. A container that was made but not started has none,
so a small watching process waits for the end of the parent and removes all containers that carry
the parent's label. ``python -m swe_gym_env clean`` and the date in the label cover the remaining
cases, such as a machine that went down.

The watching process runs this file by its path, so it imports nothing from this package.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABEL = "swe_gym_env"
TTL = 24 * 3600  # seconds after which a sandbox ends, even if its parent still uses it
LOOKS, PAUSE = 20, 0.5  # an engine may still be making what it was asked for


def connect(address: str) -> Any:
    """The SDK's low-level client. Raises docker.errors.DockerException."""
    import docker

    tls = docker.utils.kwargs_from_env().get("tls", False)
    return docker.APIClient(address, version="auto", timeout=120, tls=tls)


def labels() -> dict[str, str]:
    """Labels of a new container: which process made it, and until when it may exist."""
    expires = str(int(time.time()) + TTL)
    return {LABEL: "sandbox", f"{LABEL}.owner": _owner(os.getpid()), f"{LABEL}.expires": expires}


def abandoned(label: Mapping[str, str]) -> bool:
    """Whether the process that made the container has ended, or the container's time is over."""
    host, pid, started = label.get(f"{LABEL}.owner", "::").rsplit(":", 2)
    expired = int(label.get(f"{LABEL}.expires", "0")) < time.time()
    return expired or (host == socket.gethostname() and _started(int(pid or 0)) != started)


def watch(address: str) -> None:
    """Start the process that removes this one's containers after its end.

    Args:
        address: Address of the engine.
    """
    subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), _owner(os.getpid()), address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent
    )


def sweep(api: Any, owner: str) -> None:
    """Remove the containers of ``owner``. It looks several times: one may still be starting."""
    for _ in range(LOOKS):
        wanted = {"label": f"{LABEL}.owner={owner}"}
        for container in api.containers(all=True, filters=wanted):
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except Exception as error:  # the engine is removing it already
                print(error, file=sys.stderr)
        time.sleep(PAUSE)


def _owner(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; a process id alone may be used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _main() -> None:
    pid, owner, address = sys.argv[1:]
    try:
        gone = os.pidfd_open(int(pid))
    except ProcessLookupError:
        gone = -1
    if gone >= 0 and _started(int(pid)) == owner.rpartition(":")[2]:
        select.select([gone], [], [])
    sweep(connect(address), owner)


if __name__ == "__main__":
    _main()
