"""Adds to Hydra's message about an unknown option what does exist beside it.

Hydra lists the options of a group it does not know, but of a value (``training.learning_rate=1``)
it only says that the key is not there.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"


@contextlib.contextmanager
def explain_unknown() -> Iterator[None]:
    try:
        yield
    except SystemExit as end:
        if end.code == 1:  # Hydra's own exit code for a configuration that it cannot compose
            for line in unknown(sys.argv[1:]):
                print(line, file=sys.stderr)
        raise


def unknown(arguments: list[str]) -> list[str]:
    """One line for each ``key=value`` whose key the configuration does not have."""
    keys = [a.split("=", 1)[0] for a in arguments if "=" in a and a[0] not in "-+~"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    return [
        _beside(cfg, key)
        for key in keys
        if key not in groups and not key.startswith("hydra.") and not _has(cfg, key)
    ]


def _has(cfg: DictConfig, key: str) -> bool:
    missing = object()
    return OmegaConf.select(cfg, key, default=missing, throw_on_missing=False) is not missing


def _beside(cfg: DictConfig, key: str) -> str:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return _beside(cfg, parent) if parent else f"there is no {key}"
    there = [str(name) for name in node]
    close = difflib.get_close_matches(last, there, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    where = parent or "the configuration"
    return f"{key}: there is no {last!r}{hint}; {where} has: {', '.join(sorted(there))}"
