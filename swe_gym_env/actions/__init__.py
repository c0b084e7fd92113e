"""Action formats by name."""

from __future__ import annotations

from collections.abc import Callable

from swe_gym_env.actions.base import ActionFormat, FormatError
from swe_gym_env.actions.bash_block import BashBlock
from swe_gym_env.errors import SetupError

__all__ = ["ActionFormat", "FormatError", "action_format"]

_FORMATS: dict[str, Callable[[], ActionFormat]] = {"bash_block": BashBlock}


def action_format(name: str) -> ActionFormat:
    """Raises SetupError, naming what exists."""
    if name not in _FORMATS:
        raise SetupError(f"no action format {name!r}; there are: {', '.join(sorted(_FORMATS))}")
    return _FORMATS[name]()
