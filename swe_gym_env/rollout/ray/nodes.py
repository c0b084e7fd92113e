"""The machines of a Ray cluster: joining them, what they have room for, and which come and go."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from swe_gym_env.errors import SetupError

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks
ROOM_WAIT_SECONDS = 300.0  # for a machine with room to come (back) while a run goes on
OBJECT_STORE = 128 * 2**20  # bytes, of a local start: episodes are small
# The key of the configuration behind each of Ray's resources, and its unit there
KEYS = {"CPU": ("cpus", 1), "memory": ("memory_gb", 2**30)}


def connect(address: str) -> None:
    """Join the cluster at ``address``, or start one here (``local``); a process that is in one
    already stays there. SetupError where none answers."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _answers(address)
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,  # it pours out the logs of every machine that goes
            **(here if address == "local" else {}),
        )
    except Exception as error:  # Ray raises many kinds
        if address == "local":
            raise SetupError(
                f"cluster=ray: Ray does not start here: {_first_line(error)}"
            ) from None
        raise SetupError(
            f"cluster.address={address}: no Ray cluster answers there ({_first_line(error)}). "
            "Start it (ray start --head), correct the address, or take cluster.address=local"
        ) from None
    names = [name(node) for node in alive()]
    log.info("Ray: %d machine%s: %s", len(names), "s" * (len(names) > 1), ", ".join(names))


def _answers(address: str) -> None:
    """Ray itself tries for minutes. OSError where nothing listens."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def name(node: Mapping[str, Any]) -> str:
    """Of a machine, for people; a host may run several nodes."""
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"


def fits(node: Mapping[str, Any], wanted: Mapping[str, float]) -> bool:
    return all(node["Resources"].get(key, 0) >= amount for key, amount in wanted.items())


def check_room(wanted: Mapping[str, float], what: str) -> None:
    """SetupError, naming what is short, where no machine could ever hold ``wanted``."""
    nodes = alive()
    if any(fits(node, wanted) for node in nodes):
        return
    short = []
    for key, amount in wanted.items():
        most = max((node["Resources"].get(key, 0) for node in nodes), default=0)
        option, unit = KEYS[key]
        if most < amount:
            short.append(f"cluster.{option}={amount / unit:g}, and the most is {most / unit:.3g}")
    raise SetupError(
        f"no machine of the Ray cluster has room for {what}: "
        + ("; ".join(short) or "some have one resource and others another, none has all")
        + ". Ask for less, or add a machine that has it"
    )


class Nodes:
    """Watches the machines while episodes run, each of which takes ``episode`` of one."""

    def __init__(self, episode: Mapping[str, float]) -> None:
        self._episode = episode
        check_room(episode, "one episode")
        self._known = {node["NodeID"]: node for node in alive()}
        self._looked = self._had_room = time.monotonic()

    @property
    def able(self) -> Sequence[Mapping[str, Any]]:
        """Those that can hold an episode."""
        return [node for node in self._known.values() if fits(node, self._episode)]

    def look(self) -> None:
        """One line for each machine that went or came. SetupError where none has had room for an
        episode for a long time, so that nothing can go on."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        there = {node["NodeID"]: node for node in alive()}
        gone = [node for key, node in self._known.items() if key not in there]
        came = [node for key, node in there.items() if key not in self._known]
        self._known = there
        for node in gone:
            log.warning(
                "machine %s is gone: its episodes are played again, %d machines left",
                name(node),
                len(there),
            )
        for node in came:
            log.info("machine %s has joined: %d machines", name(node), len(there))
        if self.able:
            self._had_room = now
        elif gone:
            log.warning("no machine with room for an episode is left: waiting for one")
        elif now - self._had_room > ROOM_WAIT_SECONDS:
            check_room(self._episode, "one episode")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
