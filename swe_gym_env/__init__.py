"""A Gymnasium environment for software-engineering agents, and roll-outs in it.

    from swe_gym_env import Rollout, SWEEnv, tasks

Importing the package only registers the environment, so that
``gymnasium.make("swe_gym_env:SWE-v0", tasks=...)`` finds it; every name below is imported when it
is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from swe_gym_env import tasks
    from swe_gym_env.env import SWEEnv
    from swe_gym_env.errors import InfraError, SetupError
    from swe_gym_env.policies.base import Policy, Reply, State
    from swe_gym_env.rollout.driver import Progress
    from swe_gym_env.rollout.facade import Rollout
    from swe_gym_env.rollout.mixers import (
        Mixer,
        PerEpisodeBeta,
        PerTurnBeta,
        SingleSwitch,
        StudentOnly,
        TeacherOnly,
    )
    from swe_gym_env.rollout.ray import Cluster
    from swe_gym_env.rollout.running import Request
    from swe_gym_env.rollout.store import Round, RoundFolder
    from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, ToolCall, Turn

__all__ = [
    "Annotation",
    "Cluster",
    "Episode",
    "InfraError",
    "Mixer",
    "Outcome",
    "PerEpisodeBeta",
    "PerTurnBeta",
    "Policy",
    "Progress",
    "Reply",
    "Request",
    "Rollout",
    "Round",
    "RoundFolder",
    "SWEEnv",
    "SetupError",
    "SingleSwitch",
    "State",
    "StudentOnly",
    "TaskInstance",
    "TeacherOnly",
    "ToolCall",
    "Turn",
    "tasks",
]

ENV_ID = "SWE-v0"

_MODULES = {
    "env": ("SWEEnv",),
    "errors": ("InfraError", "SetupError"),
    "policies.base": ("Policy", "Reply", "State"),
    "rollout.driver": ("Progress",),
    "rollout.facade": ("Rollout",),
    "rollout.mixers": (
        "Mixer",
        "PerEpisodeBeta",
        "PerTurnBeta",
        "SingleSwitch",
        "StudentOnly",
        "TeacherOnly",
    ),
    "rollout.ray": ("Cluster",),
    "rollout.running": ("Request",),
    "rollout.store": ("Round", "RoundFolder"),
    "types": ("Annotation", "Episode", "Outcome", "TaskInstance", "ToolCall", "Turn"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

if ENV_ID not in gymnasium.registry:
    gymnasium.register(id=ENV_ID, entry_point="swe_gym_env.env:SWEEnv")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"swe_gym_env.{_HOME[name]}"), name)
    if name == "tasks":
        return importlib.import_module("swe_gym_env.tasks")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
