"""From sections of a configuration with a ``_target_`` to objects: algorithm, trainer, policy.

``_target_`` may name a class of any installed package, not only of ``algorithms``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from omegaconf import DictConfig

from algorithms.base import Algorithm
from algorithms.trainer import Trainer
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy

ENGINE = "algorithms.engine.trainer.EngineTrainer"


def build_algorithm(cfg: DictConfig, section: str = "algorithm") -> Algorithm:
    """The algorithm that ``cfg``, the section of that name, describes. Raises SetupError."""
    made: Algorithm = _build(cfg, section, Algorithm)
    return made


def build_trainer(cfg: DictConfig | None) -> Trainer:
    """The trainer of the section ``trainer``; runs of older versions have none and used ours."""
    made: Trainer = _build(cfg or DictConfig({"_target_": ENGINE}), "trainer", Trainer)
    return made


def build_policy(cfg: DictConfig) -> Policy:
    """The policy of another package that ``cfg``, the section ``teacher``, names. Its options are
    in ``options``. Raises SetupError."""
    section = DictConfig({**cfg.get("options", {}), "_target_": cfg.get("_target_")})
    made = _build(section, "teacher", object)
    if missing := [part for part in ("name", "needs_sandbox", "act") if not hasattr(made, part)]:
        raise SetupError(
            f"teacher._target_={section._target_}: it is no policy, it lacks {', '.join(missing)} "
            "(swe_gym_env/policies/base.py)"
        )
    policy: Policy = made
    return policy


def _build(cfg: DictConfig, section: str, base: type) -> Any:
    """An object of the class that ``_target_`` names, with the other keys of ``cfg`` as options.

    Raises:
        SetupError: The class is missing or not derived from ``base``, or it refuses an option.
    """
    from hydra.errors import InstantiationException  # late: analyses of stored runs rarely need it
    from hydra.utils import instantiate

    kind = import_class(cfg.get("_target_"), section, base)
    known = inspect.signature(kind).parameters
    unknown = [key for key in map(str, cfg) if key not in known and not key.startswith("_")]
    if unknown and all(each.kind is not each.VAR_KEYWORD for each in known.values()):
        raise SetupError(
            f"{section}: {cfg._target_} has no option {unknown[0]}; its options are "
            f"{', '.join(known) or 'none'}"
        )
    try:
        return instantiate(cfg, _convert_="all")
    except InstantiationException as error:
        where = section + (f"={cfg.name}" if "name" in cfg else "")
        raise SetupError(f"{where}: {error.__cause__ or error}") from None


def import_class(target: Any, section: str, base: type) -> type:
    """The class with the dotted name ``target``.

    Args:
        target: What ``section._target_`` says.
        section: Name of the configuration's section, for messages.
        base: The class that it must be derived from.

    Raises:
        SetupError: It cannot be imported, or is not derived from ``base``.
    """
    where, (module, _, name) = f"{section}._target_={target}", str(target or "").rpartition(".")
    example = "package.module.Class, a class"
    if base is not object:
        example += f" derived from {base.__module__}.{base.__name__}"
    if not module or module.startswith("."):
        raise SetupError(f"{where}: give {example}")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise SetupError(
            f"{where}: the module {module} cannot be imported ({error}). Install its package "
            "into this Python environment, or put its folder on PYTHONPATH"
        ) from None
    if kind is None:
        raise SetupError(f"{where}: the module {module} has no class {name}")
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise SetupError(f"{where}: it is not {example}")
    return kind
