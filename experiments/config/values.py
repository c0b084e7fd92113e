"""Checks a composed configuration against what is declared, before anything is built.

All mistakes are named at once: a key that is not declared, with the nearest one that is; a value of
the wrong type or out of range, with what is allowed. Two parts are checked elsewhere, with more
knowledge: the options of a task source (``swe_gym_env.tasks.check_options``), and what an
algorithm's options mean together (the algorithm itself).
"""

from __future__ import annotations

import difflib
import importlib
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.config.keys import Declared, Key, alternatives, declared
from experiments.config.schema import RunConfig
from swe_gym_env.errors import SetupError

LARGEST = 2**31 - 1  # PyTorch, NumPy seeds and sockets take no larger whole number
ELSEWHERE = {"plan": "the section plan is for python -m experiments.plan"}


def check(cfg: DictConfig, kind: type = RunConfig, stored: bool = False) -> None:
    """Checks every key and value.

    Args:
        cfg: The composed configuration, or one that lies in a run folder.
        kind: The dataclass that declares its keys.
        stored: It may hold keys of another version of this program, which are ignored.

    Raises:
        SetupError: One line for each mistake.
    """
    if mistakes := list(_section(cfg, declared(kind), "", stored)):
        raise SetupError("\n".join(mistakes))


def leave_out(cfg: DictConfig, given: Iterable[str], kind: type = RunConfig) -> None:
    """Removes what a file of ``conf/`` says for another variant of a section than the chosen one.

    ``experiment=demo`` sets the expert's ``teacher.tests``, a key that ``teacher=server`` lacks.

    Args:
        cfg: The composed configuration, which is changed.
        given: The keys on the command line, which stay, so that :func:`check` refuses them.
        kind: The dataclass that declares its keys.
    """
    given = set(given)
    for name, known in declared(kind).items():
        node = OmegaConf.select(cfg, name)
        chosen = known.section(node) if known.key.variants and node else None
        if chosen is None:
            continue
        others = set().union(*map(declared, known.key.variants.values())) - set(declared(chosen))
        for key in others.intersection(map(str, node)):
            if not any(each.startswith(f"{name}.{key}") for each in given):
                with open_dict(node):
                    del node[key]


def check_some(cfg: DictConfig, *keys: str) -> None:
    """SetupError where one of ``keys`` is 0, which leaves a command nothing to do."""
    for key in keys:
        if OmegaConf.select(cfg, key) == 0:
            raise SetupError(f"{key}=0 leaves nothing to do: it is 1 or more")


def _section(
    node: DictConfig, keys: Mapping[str, Declared], path: str, stored: bool
) -> Iterator[str]:
    for name in map(str, node):
        here = f"{path}{name}"
        if name not in keys:
            if not (stored or name.startswith("_")):
                yield undeclared(here, keys)
            continue
        if OmegaConf.is_missing(node, name):
            continue
        try:
            value = node[name]
        except OmegaConfBaseException as error:  # an interpolation of what is not there
            yield f"{here}: {str(error).splitlines()[0]}"
            continue
        yield from _value(value, keys[name], here, stored)


def _value(value: Any, known: Declared, path: str, stored: bool) -> Iterator[str]:
    key = known.key
    if key.options or key.variants or key.fallback or is_dataclass(known.type):
        if not isinstance(value, DictConfig):
            yield f"{path}={_shown(value)}: it is a section of values: {path}.NAME=..."
        elif key.options or ("_target_" in value and not key.variants):
            yield from _section(value, _options(value), f"{path}.", stored)
        elif kind := known.section(value):
            yield from _section(value, declared(kind), f"{path}.", stored)
        else:
            yield f"{path}.name={value.get('name')}: it is one of {', '.join(key.variants)}"
        return
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if not fits(plain, known.type, key):
        yield f"{path}={_shown(plain)}: it is {allowed(known.type, key)}"


def _options(node: DictConfig) -> Mapping[str, Declared]:
    """The options of the class that ``_target_`` names. A class that cannot be imported, or is no
    dataclass, may have any option here: it is checked where it is built."""
    anything = {str(name): Declared(str(name), Any, None, Key("")) for name in node}
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name, None) if module else None
        if isinstance(kind, type) and is_dataclass(kind):
            return declared(kind)
    except (ImportError, NameError):  # NameError: annotations that exist for type checkers alone
        pass
    return anything


def undeclared(path: str, keys: Iterable[str]) -> str:
    """The line for a key that nobody declares."""
    above, _, name = path.rpartition(".")
    keys = list(keys)
    if not above and name in ELSEWHERE:
        return f"{path}: {ELSEWHERE[name]}"
    close = difflib.get_close_matches(name, keys, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    where = above or "the configuration"
    return f"{path}: there is no {name!r}{hint}; {where} has: {', '.join(sorted(keys))}"


def fits(value: Any, hint: Any, key: Key) -> bool:
    """Whether ``value`` has the type and lies in the range."""
    return any(_is(value, each, key) for each in alternatives(hint))


def _is(value: Any, hint: Any, key: Key) -> bool:
    if hint is Any:
        return True
    if hint in (None, types.NoneType):
        return value is None
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and not math.isnan(value) and _in_range(value, key)
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST and _in_range(value, key)
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(hint))
    if origin is list:
        inner = get_args(hint)[0]
        return isinstance(value, list) and all(_is(each, inner, Key("")) for each in value)
    if origin is dict:
        return isinstance(value, Mapping)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _in_range(value: float, key: Key) -> bool:
    return (
        (key.least is None or value >= key.least)
        and (key.above is None or value > key.above)
        and (key.most is None or value <= key.most)
    )


def allowed(hint: Any, key: Key) -> str:
    """In words: ``a whole number, 1 or more, or null``."""
    if key.allowed:
        return key.allowed
    words = [_words(each, key) for each in alternatives(hint) if each is not types.NoneType]
    if len(words) < len(alternatives(hint)):
        return f"{' or '.join(words)}, or null"
    return " or ".join(words)


def _words(hint: Any, key: Key) -> str:
    if hint is int:
        return "a whole number" + (f", {key.least:g} or more" if key.least is not None else "")
    if hint is float:
        if key.above is not None:
            low = f" above {key.above:g}"
        elif key.least is not None:
            low = f" from {key.least:g}" + ("" if key.most is not None else " on")
        else:
            low = ""
        return "a number" + low + (f" to {key.most:g}" if key.most is not None else "")
    if hint is bool:
        return "true or false"
    if hint is str:
        return "text"
    origin = get_origin(hint)
    if origin is Literal:
        choices = [str(each) for each in get_args(hint)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if origin is list:
        return "a list of names" if get_args(hint)[0] is str else "a list of whole numbers"
    if origin is dict:
        return "a section of values"
    return getattr(hint, "__name__", str(hint))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
