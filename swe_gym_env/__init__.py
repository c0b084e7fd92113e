"""A Gymnasium environment for software-engineering agents.

Importing the package only registers the environment, so that
``gymnasium.make("swe_gym_env:SWE-v0", tasks=...)`` finds it; everything else is imported late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from swe_gym_env.env import SWEEnv

__all__ = ["SWEEnv"]

ENV_ID = "SWE-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(id=ENV_ID, entry_point="swe_gym_env.env:SWEEnv")


def __getattr__(name: str) -> Any:
    if name == "SWEEnv":
        from swe_gym_env.env import SWEEnv

        return SWEEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
