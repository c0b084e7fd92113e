"""``python -m experiments.plan``: what a run will cost, before it costs anything.

    python -m experiments.plan algorithm=dagger model=qwen8b cluster.gpus=8
    python -m experiments.plan                        the embedded set-up, on this CPU
    python -m experiments.plan plan.calibrate=true    measure this CPU first, for all later plans

Takes the choices and values of experiments.run; the section ``plan`` holds what is assumed, and its
values can be given in the same way (plan.student.turns=30). docs/reference/planner.md says what is
modeled.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments.console.cli import CONF, HYDRA, explain_unknown, guarded


@hydra.main(**{**HYDRA, "config_path": str(CONF)})
def main(cfg: DictConfig) -> None:
    from experiments.plan.show import plan

    guarded(plan, cfg, "experiments.plan")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)  # Hydra goes on with the choices and values
    with explain_unknown():
        main()
