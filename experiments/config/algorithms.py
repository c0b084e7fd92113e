"""From the section ``algorithm`` of a configuration to the object.

``_target_`` may name a class of any installed package, not only of ``algorithms``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from omegaconf import DictConfig

from algorithms.base import Algorithm
from swe_gym_env.errors import SetupError


def build_algorithm(cfg: DictConfig, section: str = "algorithm") -> Algorithm:
    """The class that ``_target_`` names, with the other keys of ``cfg`` as its options.

    Args:
        cfg: The section of the configuration.
        section: Its name, for messages.

    Raises:
        SetupError: The class is missing or is no Algorithm, or it refuses an option.
    """
    from hydra.errors import InstantiationException  # late: analyses of stored runs rarely need it
    from hydra.utils import instantiate

    kind = import_class(cfg.get("_target_"), section, Algorithm)
    known = inspect.signature(kind).parameters
    unknown = [key for key in map(str, cfg) if key not in known and not key.startswith("_")]
    if unknown and all(each.kind is not each.VAR_KEYWORD for each in known.values()):
        raise SetupError(
            f"{section}.{unknown[0]}: {cfg._target_} has no such option; its options are "
            f"{', '.join(known)}"
        )
    try:
        made: Algorithm = instantiate(cfg, _convert_="all")
    except InstantiationException as error:
        raise SetupError(f"{section}={cfg.get('name')}: {error.__cause__ or error}") from None
    return made


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
    example = f"package.module.Class, a class derived from {base.__module__}.{base.__name__}"
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
