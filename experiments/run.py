"""The main job: ``python -m experiments.run`` (``--help`` lists the choices)."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from experiments.console import closing
from experiments.console.cli import HYDRA, explain_unknown, guarded
from experiments.console.progress import Display
from experiments.pipeline import sweeps


@hydra.main(**HYDRA)
def main(cfg: DictConfig) -> None:
    with sweeps.cell(cfg) as todo:
        if todo:
            guarded(_run, cfg, "experiments.run")


def _run(cfg: DictConfig, display: Display) -> None:
    from experiments.pipeline.phases import run  # late, so that --help and mistakes take no time
    from experiments.report import publish

    folder, tasks = run(cfg, display)
    page = publish(folder.path, tasks)
    assert folder.summary is not None
    closing.show(display.console, folder.summary, folder.path, page)


if __name__ == "__main__":
    with explain_unknown(), sweeps.reported():
        main()
