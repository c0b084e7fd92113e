"""Where tasks come from: ``load(name, **options)`` gives a list of :class:`TaskInstance`.

    load("pypi", split="train", limit=200, max_function_lines=30)
    load("jsonl", path="rows.jsonl")

Each task family is a module, imported when it is used. Another package can register one under the
entry-point group ``swe_gym_env.tasks`` (``swe_gym_env/plugins.py``). Such a module has:

- ``load(split=..., limit=..., OPTION=...) -> list[TaskInstance]``. Its annotated parameters are the
  options of the family: unknown names, and values of another type than ``int``, ``str``, ``bool``
  or ``None`` where only these are annotated, are refused before it is called. Commands and runs
  pass ``split`` (``train``, ``heldout``, ...) and ``limit``, so both should be there.
- ``HUB`` (optional): the Hugging Face data set that it reads if no ``path`` is given, so that a run
  can check at its start that it is reachable. A dict if it has several data sets.
- ``BUILT`` (optional): True if ``load`` makes the tasks on this machine, which may take minutes.
  ``load`` then also takes ``workers`` (processes) and ``progress`` (called with the number done,
  the total and a note).
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from swe_gym_env.errors import SetupError
from swe_gym_env.plugins import Group
from swe_gym_env.types import TaskInstance

FAMILIES = ("pypi", "jsonl", "swe_gym", "swe_smith", "r2e_gym", "swe_rebench", "swebench")
SOURCES = {name: f"swe_gym_env.tasks.{name}" for name in FAMILIES}  # without other packages'
SOURCES |= {f"swebench_{part}": SOURCES["swebench"] for part in ("lite", "verified")}
PLUGINS = Group("swe_gym_env.tasks", "task family", tuple(sorted(SOURCES)))
WORDS: dict[type, str] = {int: "a whole number", str: "a text", bool: "true or false"}
WORDS[type(None)] = "null"
LEAST = {"limit": 0, "heldout": 0, "workers": 1, "window": 1}  # smallest allowed value
GIVEN: dict[str, dict[str, Any]] = {
    "swebench_lite": {"dataset": "lite"},
    "swebench_verified": {"dataset": "verified"},
}


def names() -> list[str]:
    """All task families: those of this project, then those of other installed packages."""
    return PLUGINS.names()


def load(name: str, **options: Any) -> list[TaskInstance]:
    """The tasks of a family. Raises SetupError for an unknown family or option, or a bad file."""
    options = check_options(name, options)
    return _family(name).load(**{**GIVEN.get(name, {}), **options})


def is_built(name: str) -> bool:
    """Whether the family makes its tasks on this machine (see ``BUILT`` above)."""
    return bool(getattr(_family(name), "BUILT", False))


def hub(name: str) -> str | None:
    """The Hugging Face data set that the family reads by default; None if it reads none."""
    declared = getattr(_family(name), "HUB", None)
    if isinstance(declared, Mapping):
        return declared.get(GIVEN.get(name, {}).get("dataset"))
    return declared


def _family(name: str) -> Any:
    """A module, or another object with ``load``. Raises SetupError."""
    if name in SOURCES:
        return importlib.import_module(SOURCES[name])
    family = PLUGINS.load(name)
    if not callable(getattr(family, "load", None)):
        raise PLUGINS.broken(name, "it has no function `load`")
    return family


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the types that ``load`` of the family ``name`` declares.

    Raises:
        SetupError: The family is unknown, or has no such option, or the value has a wrong type.
    """
    function = _family(name).load
    try:
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise PLUGINS.broken(name, f"the annotations of `load` cannot be read: {error}") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [
        p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if (unknown := sorted(set(options) - set(known))) and not takes_any:
        raise SetupError(
            f"task source {name!r} has no option {', '.join(unknown)}: there are {', '.join(known)}"
        )
    return {key: _checked(name, key, value, hints.get(key, Any)) for key, value in options.items()}


def _checked(source: str, name: str, value: Any, hint: Any) -> Any:
    """``value``, if it is what the option's annotation says; containers and choices are left to the
    source. SetupError."""
    several = get_origin(hint) in (Union, UnionType)
    kinds = get_args(hint) if several else (hint,)
    if isinstance(value, os.PathLike) and str in kinds:
        value = os.fspath(value)
    if not set(kinds) <= WORDS.keys():
        return value
    if type(value) not in kinds or (type(value) is int and value < LEAST.get(name, value)):
        least = f" of at least {LEAST[name]}" if name in LEAST else ""
        wanted = " or ".join(WORDS[kind] for kind in kinds) + least
        raise SetupError(f"task source {source!r}: {name}={value!r} is not {wanted}")
    return value
