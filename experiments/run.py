"""The command line of the main job: ``python -m experiments.run`` (``--help`` lists the choices).

Torch is imported only after the configuration and the machine have been checked, so that a mistake
costs seconds.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.progress import Display
from swe_gym_env.errors import SetupError

CONFIG = {"version_base": "1.3", "config_path": "../conf", "config_name": "config"}


def guarded(job: Callable[[DictConfig, Display], Any], cfg: DictConfig, module: str) -> None:
    """Ends in one clear message where the user has to act, and says how to go on after Ctrl-C."""
    display = Display(cfg.logging.level, cfg.logging.seconds_between_lines)
    try:
        job(cfg, display)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        print(f"\nStopped. What is done is kept; go on with: {command}", file=sys.stderr)
        raise SystemExit(130) from None


@hydra.main(**CONFIG)
def main(cfg: DictConfig) -> None:
    from experiments.pipeline import run

    guarded(run, cfg, "experiments.run")


if __name__ == "__main__":
    from experiments.options import explain_unknown

    with explain_unknown():
        main()
