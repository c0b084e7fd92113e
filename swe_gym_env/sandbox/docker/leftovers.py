"""No container outlives the process that made it, wherever that process was killed.

A started sandbox ends with its stdin. One that was made and not yet started has none, so a small
process of ours watches the parent and removes what still carries its label. For all else (the
machine went down, say) there are ``python -m swe_gym_env clean`` and the label's date.

Run as a program by its path, so it imports nothing from this package.
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
TTL = 24 * 3600  # seconds after which a sandbox ends, whoever still holds it
LOOKS, PAUSE = 20, 0.5  # an engine may still be making what it was asked for


def connect(address: str) -> Any:
    """The SDK's low-level client. Raises docker.errors.DockerException."""
    import docker

    tls = docker.utils.kwargs_from_env().get("tls", False)
    return docker.APIClient(address, version="auto", timeout=120, tls=tls)


def labels() -> dict[str, str]:
    """By these a sandbox that was left behind is known: whose it is, and until when it may live."""
    expires = str(int(time.time()) + TTL)
    return {LABEL: "sandbox", f"{LABEL}.owner": _owner(os.getpid()), f"{LABEL}.expires": expires}


def abandoned(label: Mapping[str, str]) -> bool:
    """Has the process that made this sandbox ended, or its time run out?"""
    host, pid, started = label.get(f"{LABEL}.owner", "::").rsplit(":", 2)
    expired = int(label.get(f"{LABEL}.expires", "0")) < time.time()
    return expired or (host == socket.gethostname() and _started(int(pid or 0)) != started)


def watch(address: str) -> None:
    """Start the process that tidies up after this one. ``address``: the engine's."""
    subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), _owner(os.getpid()), address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent
    )


def sweep(api: Any, owner: str) -> None:
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
    """When a process began, in ticks since boot: its number may be used again."""
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
