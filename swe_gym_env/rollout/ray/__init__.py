"""The Ray back end of the roll-out. What is here needs no Ray; the modules beside it do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster plays, and what each episode may use of it.

    Attributes:
        address: ``local`` starts Ray on this machine; ``auto`` or ``HOST:PORT`` joins a cluster.
        cpus: CPU cores of a node that one episode reserves; it mostly waits for a model.
        memory_gb: Memory of a node that one episode reserves, in GiB.
        retries: How often an episode is played again whose machine, process or sandbox was lost.
    """

    address: str = "local"
    cpus: float = 0.5
    memory_gb: float = 1.0
    retries: int = 3
