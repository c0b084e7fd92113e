"""Stored runs as the probes ask about them: a whole configuration, and a sample of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.analysis.measure import NotMeasured
from experiments.console.cli import CONF
from swe_gym_env.policies.base import keyed_rng

T = TypeVar("T")
GROWING = ("limits", "sampling", "workers", "serving", "evaluation")  # sections of fixed keys


def completed(cfg: DictConfig) -> DictConfig:
    """``cfg`` with the defaults of all keys that were added since the run was made. Raises
    NotMeasured if it never was the whole configuration of a run."""
    if "model" not in cfg or "tasks" not in cfg:
        raise NotMeasured("config.yaml is not the whole configuration of a run")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        new = compose("config")
    whole = {str(name): new[name] for name in new} | {str(name): cfg[name] for name in cfg}
    OmegaConf.set_struct(new, False)
    whole |= {name: OmegaConf.merge(new[name], cfg[name]) for name in GROWING if name in cfg}
    return OmegaConf.create(whole)


def drawn(items: Sequence[T], seed: int, limit: int | None) -> list[T]:
    """At most ``limit`` of ``items``: the same ones at each call, and more for a larger limit."""
    order = keyed_rng((seed, "analysis")).permutation(len(items))
    return [items[place] for place in order[: limit or len(items)]]
