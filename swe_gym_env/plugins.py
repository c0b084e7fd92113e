"""Extensions that other installed packages register as entry points.

A package adds a task family, a sandbox or an action format in its own ``pyproject.toml``:

    [project.entry-points."swe_gym_env.tasks"]
    my_tasks = "my_package.tasks"                # a module (or object) with ``load``

    [project.entry-points."swe_gym_env.sandboxes"]
    my_sandbox = "my_package.sandbox:Provider"   # called without arguments, gives a SandboxProvider

    [project.entry-points."swe_gym_env.action_formats"]
    my_format = "my_package.actions:MyFormat"    # called with the offered tools, or with nothing

A package is imported only when one of its names is used, so a broken one breaks nothing else. The
names of this project come first: an entry point cannot replace one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from swe_gym_env.errors import SetupError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """One kind of extension.

    Attributes:
        entry_points: Name of the entry-point group.
        kind: What one of them is called in messages, e.g. ``sandbox``.
        built_in: Names that this project has itself.
    """

    entry_points: str
    kind: str
    built_in: tuple[str, ...]

    def names(self) -> list[str]:
        """All names that can be used: those of this project, then those of other packages."""
        return [*self.built_in, *sorted(self._registered())]

    def load(self, name: str) -> Any:
        """The object that another package registered as ``name``.

        Raises:
            SetupError: No package registers the name, two packages do, or the import fails.
        """
        registered = self._registered().get(name, [])
        if not registered:
            raise SetupError(f"no {self.kind} {name!r}; there are: {', '.join(self.names())}")
        if len({point.value for point in registered}) > 1:
            packages = " and ".join(map(_package, registered))
            raise SetupError(
                f"{self.kind} {name!r} is registered by {packages}: uninstall all but one"
            )
        try:
            return registered[0].load()
        except Exception as error:  # code of another package may raise anything
            raise self.broken(name, f"{type(error).__name__}: {error}") from error

    def broken(self, name: str, problem: str) -> SetupError:
        """The error for an extension that cannot be used, with the package to blame."""
        point = self._registered()[name][0]
        return SetupError(f"{self.kind} {name!r} of {_package(point)} ({point.value}): {problem}")

    def _registered(self) -> dict[str, list[EntryPoint]]:
        """By name; several where packages disagree. Without names of this project."""
        registered: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(self.entry_points, tuple(sys.path)):
            if point.name in self.built_in:
                _warn_once(
                    f"{_package(point)} registers the {self.kind} {point.name!r}, which is a name "
                    "of swe_gym_env and cannot be replaced: it is ignored"
                )
            else:
                registered.setdefault(point.name, []).append(point)
        return registered


@lru_cache
def _entry_points(group: str, path: Iterable[str]) -> tuple[EntryPoint, ...]:
    """Those that ``path``, which is ``sys.path``, offers: reading them takes tens of
    milliseconds."""
    return tuple(entry_points(group=group))


@lru_cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"
