"""``python -m experiments.plan``: what a run will cost, before it costs anything.

    python -m experiments.plan algorithm=dagger model=qwen8b cluster.gpus=8
    python -m experiments.plan                        the embedded set-up, on this CPU
    python -m experiments.plan plan.calibrate=true    measure this CPU first, for all later plans

Takes the choices and values of experiments.run. The section ``plan``, which a run does not have,
holds what is assumed (plan.student.turns=30). docs/reference/planner.md says what is modeled.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments.console.cli import CONF, HYDRA, explain_unknown, guarded
from experiments.plan.config import PlannerConfig

CONFIG = "planner"  # conf/planner.yaml


@hydra.main(**{**HYDRA, "config_path": str(CONF), "config_name": CONFIG})
def main(cfg: DictConfig) -> None:
    from experiments.plan.show import plan

    guarded(plan, cfg, "experiments.plan", PlannerConfig)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)  # Hydra goes on with the choices and values
    with explain_unknown(CONFIG):
        main()
