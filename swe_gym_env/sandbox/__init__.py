"""Throw-away copies of a repository in which commands run. ``provider()`` picks how.

Another package can register a provider under the entry-point group ``swe_gym_env.sandboxes``
(``swe_gym_env/plugins.py``): a name and a callable without arguments that gives a
:class:`SandboxProvider`. ``auto`` never chooses one of these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from swe_gym_env.errors import SetupError
from swe_gym_env.plugins import Group
from swe_gym_env.sandbox.base import (
    LIMITS,
    ExecResult,
    Guarantee,
    Limits,
    Sandbox,
    SandboxProvider,
    SandboxSpec,
)

__all__ = [
    "LIMITS",
    "ExecResult",
    "Guarantee",
    "Limits",
    "Sandbox",
    "SandboxProvider",
    "SandboxSpec",
    "provider",
]

log = logging.getLogger(__name__)


def _local() -> SandboxProvider:
    from swe_gym_env.sandbox.local import LocalProvider

    return LocalProvider()


def _process() -> SandboxProvider:
    from swe_gym_env.sandbox.process import ProcessProvider

    return ProcessProvider()


def _docker() -> SandboxProvider:
    from swe_gym_env.sandbox.docker import DockerProvider

    return DockerProvider()


PROVIDERS: dict[str, Callable[[], SandboxProvider]] = {
    "local": _local,
    "docker": _docker,
    "process": _process,
}
PLUGINS = Group("swe_gym_env.sandboxes", "sandbox", ("auto", *PROVIDERS))
ISOLATING = ("local", "docker")  # best first; what `auto` may take


def provider(name: str = "auto") -> SandboxProvider:
    """The provider of that name, ready to use. ``auto``: the best one that isolates here."""
    if name != "auto":
        chosen = PROVIDERS[name]() if name in PROVIDERS else _of_another_package(name)
        if reason := chosen.unavailable():
            raise SetupError(f"sandbox={name} does not work here: {reason}")
        return chosen
    reasons = []
    for candidate in ISOLATING:
        chosen = PROVIDERS[candidate]()
        reason = chosen.unavailable()
        if reason is None:
            log.info("sandbox: %s", candidate)
            return chosen
        reasons.append(f"{candidate}: {reason}")
    raise SetupError("no sandbox isolates on this machine. " + " ".join(reasons))


def _of_another_package(name: str) -> SandboxProvider:
    make = PLUGINS.load(name)
    try:
        chosen: SandboxProvider = make()
    except SetupError:
        raise
    except Exception as error:  # code of another package may raise anything
        raise PLUGINS.broken(name, f"{type(error).__name__}: {error}") from error
    if missing := [part for part in ("name", "unavailable", "create") if not hasattr(chosen, part)]:
        raise PLUGINS.broken(name, f"it is no sandbox provider, it lacks {', '.join(missing)}")
    return chosen
