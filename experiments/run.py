"""The main job: ``python -m experiments.run`` (``--help`` lists the choices)."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from experiments.cli import HYDRA, explain_unknown, guarded


@hydra.main(**HYDRA)
def main(cfg: DictConfig) -> None:
    from experiments.pipeline import run  # late, so that --help and mistakes take no time

    guarded(run, cfg, "experiments.run")


if __name__ == "__main__":
    with explain_unknown():
        main()
