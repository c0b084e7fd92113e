"""How a key of the configuration is declared: its type and default are the dataclass field's, and
everything else that is known of it stands in the field's metadata.

``affects`` says what depends on the key's value, and so which folders are named after it:

    result       the run; another value leads to another run folder
    iteration0   the warm start that runs share
    teacher      the model that ``python -m experiments.teacher`` trains
    evaluation   an evaluation by ``python -m experiments.evaluate``
    measured     such an evaluation of the teacher itself (evaluation.who=teacher)

A key that affects none of them (``nothing``) changes how or where the work is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

Effect = Literal["result", "iteration0", "teacher", "evaluation", "measured"]
NOTHING: tuple[Effect, ...] = ()
RESULT: tuple[Effect, ...] = ("result",)
WARM_START: tuple[Effect, ...] = ("result", "iteration0")
MEASURED: tuple[Effect, ...] = ("result", "evaluation", "measured")
PLAYED: tuple[Effect, ...] = ("result", "iteration0", "evaluation", "measured")
EVERYTHING: tuple[Effect, ...] = ("result", "iteration0", "teacher", "evaluation", "measured")

UNSET: Any = object()


@dataclass(frozen=True)
class Key:
    """What is known of a key beside its type and default.

    Attributes:
        doc: One line.
        least: Smallest allowed number.
        above: The number must be larger than this.
        most: Largest allowed number.
        allowed: Which values are allowed, in words, where another module checks them.
        affects: What depends on the value; None: what depends on the section.
        absent: At this value the key is left out of folder names. It is the behavior of runs from
            before the key existed, so that they keep their names. For a section, None means that
            all its values are null.
        formerly: The name that the key had. Folder names still use it, and stored configurations
            may hold it.
        needs: Another key of the section, ``budget.money``: without it this one is left out too.
        whole: A section whose keys all affect what the section affects, whatever they say.
        variants: Of a section whose ``name`` chooses its keys: the dataclass for each name.
        fallback: The dataclass for every other name; None refuses other names.
        options: A section whose keys are those of the class that ``_target_`` names.
    """

    doc: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    allowed: str = ""
    affects: tuple[Effect, ...] | None = None
    absent: Any = UNSET
    formerly: str = ""
    needs: str = ""
    whole: bool = False
    variants: Mapping[str, type] = field(default_factory=dict)
    fallback: type | None = None
    options: bool = False


def key(default: Any, doc: str, **known: Any) -> Any:
    """A field with a default. ``known`` are attributes of :class:`Key`."""
    metadata = {"key": Key(doc, **known)}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(doc: str, **known: Any) -> Any:
    """A field that the chosen file of the group, or the user, must give."""
    return field(metadata={"key": Key(doc, **known)})


def section(kind: Callable[[], Any], doc: str, **known: Any) -> Any:
    """A section with the default values of the instance that ``kind`` makes."""
    return field(default_factory=kind, metadata={"key": Key(doc, **known)})


@dataclass(frozen=True)
class Declared:
    """One key: ``type`` as annotated, ``default`` MISSING where there is none."""

    name: str
    type: Any
    default: Any
    key: Key

    def section(self, value: Any) -> type | None:
        """The dataclass of the keys below, where ``value`` is a section of declared keys."""
        if self.key.variants or self.key.fallback:
            name = value.get("name") if hasattr(value, "get") else None
            return self.key.variants.get(str(name), self.key.fallback)
        return self.type if dataclasses.is_dataclass(self.type) else None  # type: ignore[return-value]


@cache
def declared(kind: type) -> dict[str, Declared]:
    """The keys of a section, by name."""
    types = get_type_hints(kind)
    found = {}
    for each in dataclasses.fields(kind):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        known = each.metadata.get("key", Key(""))
        found[each.name] = Declared(each.name, types[each.name], default, known)
    return found


def defaults(kind: type, *without: str) -> dict[str, Any]:
    """The default values of a section, nested. Keys without a default are left out."""
    return {
        name: values_of(each.default) if dataclasses.is_dataclass(each.default) else each.default
        for name, each in declared(kind).items()
        if each.default is not MISSING and name not in without
    }


def values_of(section: Any) -> dict[str, Any]:
    """The values of an instance, nested."""
    values = {each.name: getattr(section, each.name) for each in dataclasses.fields(section)}
    return {n: values_of(v) if dataclasses.is_dataclass(v) else v for n, v in values.items()}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other type alone."""
    return get_args(hint) if get_origin(hint) not in (None, list, dict, tuple, Literal) else (hint,)
