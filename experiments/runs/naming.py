"""What the name of a run's folder depends on: the configuration without what changes no result.

Two commands that give the same result share a folder, so that the second continues where the first
stopped; every setting that could change the result leads to another folder. What a setting affects
stands where it is declared (``experiments/config/schema.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.keys import UNSET, Declared, Effect, Key, declared
from experiments.config.schema import RunConfig
from experiments.config.stored import FORMER_OPTIONS

# Sections that stored configurations of older versions have
FORMER_SECTIONS = ("plan",)


def digest(data: Any) -> str:
    """Ten hexadecimal digits that depend on the content of ``data`` alone."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def affecting(cfg: DictConfig, effect: Effect) -> dict[str, Any]:
    """The resolved settings that affect ``effect``, without those at a value at which the program
    does what it did before they existed."""
    data = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(data, dict)
    for name in FORMER_SECTIONS:
        data.pop(name, None)
    return _affecting(data, declared(RunConfig), effect, inherited=True, whole=False)


def unnamed_sections() -> set[str]:
    """Sections that affect no result, those of older versions included."""
    return {name for name, each in declared(RunConfig).items() if each.key.affects == ()} | set(
        FORMER_SECTIONS
    )


def _affecting(
    data: Mapping[Any, Any],
    keys: Mapping[str, Declared],
    effect: Effect,
    inherited: bool,
    whole: bool,
) -> dict[str, Any]:
    """``inherited``: whether the section affects it; ``whole``: so do all of its keys."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        known = keys.get(name)
        key = known.key if known else Key("")
        if _is_absent(value, key.absent) or not _is_set(data, keys, key.needs):
            continue
        affects = inherited if whole or key.affects is None else effect in key.affects
        kind = known.section(value) if known else None
        if kind is not None and isinstance(value, Mapping):
            kept = _affecting(value, declared(kind), effect, affects, whole or key.whole)
            if kept or affects:
                found[key.formerly or str(name)] = kept
        elif affects:
            settings = _with_former_options(value) if key.options else value
            found[key.formerly or str(name)] = settings
    return found


def _is_absent(value: Any, absent: Any) -> bool:
    if absent is UNSET:
        return False
    if isinstance(value, Mapping):
        return bool(value == absent) or (
            absent is None and all(each is None for each in value.values())
        )
    return bool(value == absent) and type(value) is type(absent)  # 1 == True


def _is_set(data: Mapping[Any, Any], keys: Mapping[str, Declared], path: str) -> bool:
    """Whether the key ``path`` of the section ``data`` has a value that counts; true of no path."""
    if not path:
        return True
    name, _, rest = path.partition(".")
    value = data.get(name)
    if rest:
        return isinstance(value, Mapping) and value.get(rest) is not None
    return value is not None and not (name in keys and _is_absent(value, keys[name].key.absent))


def _with_former_options(value: Any) -> Any:
    """Runs keep their names when an option goes that all of them had at one value."""
    former = FORMER_OPTIONS.get(str(value.get("_target_"))) if isinstance(value, Mapping) else None
    return {**former, **value} if former else value


def evaluated_on(cfg: DictConfig) -> str:
    """Names the tasks of an evaluation, in the folder that runs with others share."""
    if cfg.evaluation.get("ids"):
        return f"{cfg.evaluation.split}-{digest(list(cfg.evaluation.ids))}"
    return f"{cfg.evaluation.split}-{cfg.evaluation.tasks}"


def untrained_tasks(cfg: DictConfig) -> int | None:
    """On how many of the evaluation's tasks the untrained student is measured; None: on all."""
    wanted = cfg.evaluation.get("untrained", True)
    return (None if wanted else 0) if isinstance(wanted, bool) else int(wanted)


def untrained_folder(cfg: DictConfig) -> str:
    """Of that evaluation, in the folder that runs with others share."""
    count = untrained_tasks(cfg)
    return f"{evaluated_on(cfg)}/untrained" + (f"-{count}" if count else "")
