"""Action formats by name.

Another package can register one under the entry-point group ``swe_gym_env.action_formats``
(``swe_gym_env/plugins.py``): a name and a class that is called with the offered tools, or with
nothing for all that it can call, and gives an :class:`ActionFormat`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from swe_gym_env.actions.base import ActionFormat, FormatError
from swe_gym_env.actions.bash_block import BashBlock
from swe_gym_env.actions.hermes_json import HermesJSON
from swe_gym_env.actions.openai_tools import OpenAITools
from swe_gym_env.actions.speech import plain_lines
from swe_gym_env.actions.xml import XML
from swe_gym_env.errors import SWEGymError
from swe_gym_env.plugins import Group
from swe_gym_env.tools import schema
from swe_gym_env.tools.bash import plain_command
from swe_gym_env.types import ToolCall

__all__ = ["ActionFormat", "FormatError", "action_format", "read"]

_FORMATS: dict[str, Callable[..., ActionFormat]] = {
    "bash_block": BashBlock,
    "hermes_json": HermesJSON,
    "openai_tools": OpenAITools,
    "xml": XML,
}
PLUGINS = Group("swe_gym_env.action_formats", "action format", tuple(sorted(_FORMATS)))
PARTS = ("name", "example", "tools", "describe", "parse", "render")  # of an ActionFormat


def action_format(name: str, tools: Sequence[str] | None = None) -> ActionFormat:
    """``tools`` by name; None offers all that the format can call. Raises SetupError,
    naming what exists."""
    offered = () if tools is None else (schema.offered(tools),)
    if name in _FORMATS:
        return _FORMATS[name](*offered)
    make = PLUGINS.load(name)
    try:
        made: ActionFormat = make(*offered)
    except SWEGymError:
        raise
    except Exception as error:  # code of another package may raise anything
        raise PLUGINS.broken(name, f"{type(error).__name__}: {error}") from error
    if missing := [part for part in PARTS if not hasattr(made, part)]:
        raise PLUGINS.broken(name, f"it is no action format, it lacks {', '.join(missing)}")
    return made


def read(form: ActionFormat, text: str) -> ToolCall:
    """The call in a turn as it was sent, whatever its line ends. Bash takes a carriage return for a
    letter, so a shell command has none at the end of a line; text for the editor keeps its own
    where not all of the turn is written so. Raises FormatError."""
    call = form.parse(plain_lines(text))
    command = call.arguments.get("command", "")
    if call.name != schema.BASH.name or "\r" not in command:
        return call
    return replace(call, arguments={**call.arguments, "command": plain_command(command)})
