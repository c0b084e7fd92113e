"""Makes the declared defaults known to Hydra, under the names of their dataclasses.

A file of ``conf/`` includes them in its defaults list: ``- /Limits@_here_``. They are plain values,
not typed nodes, so that :mod:`experiments.config.values` can name all mistakes at once.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from algorithms.aggrevate import AggreVaTe
from algorithms.dagger import DAgger
from algorithms.gkd import GKD
from algorithms.grpo import GRPO
from algorithms.mixed import Mixed
from algorithms.oec import OEC
from algorithms.opd import OPD
from algorithms.rft import RFT
from algorithms.schedules import Schedule
from algorithms.sft import SFT
from experiments.config import schema, teachers
from experiments.config.keys import defaults

METHODS = (AggreVaTe, DAgger, GKD, GRPO, Mixed, OEC, OPD, RFT, SFT)
GROUPS = (
    *teachers.TEACHERS.values(),
    *(schema.Training, schema.HFServing, schema.VLLMServing, schema.DockerSandbox),
    *(schema.Local, schema.RayCluster, schema.Logging, schema.Wandb, schema.Model),
    *(schema.Tasks, schema.SwebenchTasks),
)


def register() -> None:
    store = ConfigStore.instance().store
    whole = defaults(schema.RunConfig)
    whole["teacher"] = {name: defaults(kind) for name, kind in BILLS.items()}
    store("RunConfig", whole)
    for kind in GROUPS:
        store(kind.__name__, defaults(kind))
    for kind in METHODS:
        store(kind.__name__, defaults(kind))
    store("Schedule", defaults(Schedule, "slope", "rounds"))  # linear.yaml and the run say these


BILLS = {"budget": teachers.Budget, "prices": teachers.Prices}
