"""Brings the configuration of a stored run to what this version declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from experiments.config.keys import UNSET, declared, values_of
from experiments.config.schema import RunConfig

# Options that no longer exist, by class, at the only value that runs had
FORMER_OPTIONS: dict[str, dict[str, Any]] = {"algorithms.grpo.GRPO": {"kl_kind": "k3"}}


def complete(cfg: DictConfig) -> None:
    """Adds, in place, the keys that were declared after the run was made, at the value that means
    what the program did before, and removes options that no longer exist. Sections that have no
    default and are not there stay absent."""
    with read_write(cfg), open_dict(cfg):
        _complete(cfg, RunConfig)
        for holder in (cfg, cfg.get("iteration0")):
            options = holder.get("algorithm") if isinstance(holder, DictConfig) else None
            if isinstance(options, DictConfig):
                for name in FORMER_OPTIONS.get(str(options.get("_target_")), ()):
                    options.pop(name, None)


def _complete(node: DictConfig, kind: type) -> None:
    for name, known in declared(kind).items():
        if name not in node:
            default = known.default if known.key.absent is UNSET else known.key.absent
            if dataclasses.is_dataclass(known.default):
                default = values_of(known.default)
            if default is not MISSING:
                node[name] = default
        elif not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            value = node[name]
            below = known.section(value) if isinstance(value, Mapping | DictConfig) else None
            if below is not None:
                _complete(value, below)
