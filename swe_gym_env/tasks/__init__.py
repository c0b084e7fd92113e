"""Where tasks come from: ``load(name, **options)`` gives a list of :class:`TaskInstance`.

    load("pypi", split="train", limit=200, max_function_lines=30)
    load("jsonl", path="rows.jsonl")

Each source is a separate module, which is imported when it is used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance

FAMILIES = ("pypi", "jsonl", "swe_gym", "swe_smith", "r2e_gym", "swe_rebench", "swebench")
SOURCES = {name: f"swe_gym_env.tasks.{name}" for name in FAMILIES}
SOURCES |= {f"swebench_{part}": SOURCES["swebench"] for part in ("lite", "verified")}
WORDS: dict[type, str] = {int: "a whole number", str: "a text", bool: "true or false"}
WORDS[type(None)] = "null"
LEAST = {"limit": 0, "heldout": 0, "workers": 1, "window": 1}
GIVEN: dict[str, dict[str, Any]] = {
    "swebench_lite": {"dataset": "lite"},
    "swebench_verified": {"dataset": "verified"},
}


def load(name: str, **options: Any) -> list[TaskInstance]:
    """The tasks of a source. Raises SetupError for an unknown source or option, or a bad file."""
    options = check_options(name, options)
    function = importlib.import_module(SOURCES[name]).load
    return function(**{**GIVEN.get(name, {}), **options})


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as the source ``name`` takes them. Raises SetupError for those it has not."""
    if name not in SOURCES:
        raise SetupError(f"unknown task source {name!r}: there are {', '.join(sorted(SOURCES))}")
    known = get_type_hints(importlib.import_module(SOURCES[name]).load)
    del known["return"]
    if unknown := sorted(set(options) - set(known)):
        raise SetupError(
            f"task source {name!r} has no option {', '.join(unknown)}: there are {', '.join(known)}"
        )
    return {key: _checked(name, key, value, known[key]) for key, value in options.items()}


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
