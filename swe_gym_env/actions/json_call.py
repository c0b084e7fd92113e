"""JSON that a model wrote, read so that it can only be right or a FormatError.

Models nest, truncate and mistype, so what the json module raises on hostile text (recursion, digits
without end) is caught in one place, for every format that carries JSON.
"""

from __future__ import annotations

import json
from typing import Any

from swe_gym_env.actions.base import FormatError
from swe_gym_env.tools.schema import TOOLS
from swe_gym_env.types import ToolCall

# Models write newlines inside strings as they are; the meaning is clear, so that is let through
_DECODER = json.JSONDecoder(strict=False)


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at ``start``, and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        what, at = error.msg.lower(), text[error.pos : error.pos + 20]
        raise FormatError(f"bad JSON: {what} at {at!r}" if at else f"bad JSON: {what}") from None
    except ValueError:  # more digits than Python takes
        raise FormatError("bad JSON: a number is too long") from None
    except RecursionError:
        raise FormatError("bad JSON: nested too deeply") from None


def whole(text: str) -> Any:
    """The one JSON value that ``text`` is."""
    text = text.strip()
    value, end = decode(text)
    if end < len(text):
        raise FormatError(f"more text after the JSON: {text[end:].strip()[:20]!r}")
    return value


def to_call(function: Any, reasoning: str) -> ToolCall:
    """The call that ``{"name": ..., "arguments": ...}`` stands for. null means: not given."""
    if not isinstance(function, dict):
        raise FormatError("the call is not a JSON object")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise FormatError('the call has no "name"')
    if isinstance(arguments, str):  # OpenAI writes the object once more as a string
        arguments = whole(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise FormatError('"arguments" is not a JSON object')
    given = {key: _text(value) for key, value in arguments.items() if value is not None}
    return ToolCall(name, given, reasoning)


def to_json(call: ToolCall) -> dict[str, Any]:
    """The arguments of ``call`` as JSON values, numbers as numbers where the tool wants them."""
    if not call.name:
        raise FormatError("a call without a name cannot be written")
    tool = TOOLS.get(call.name)
    return tool.json_values(call.arguments) if tool else dict(call.arguments)


def dump(value: Any) -> str:
    """On one line, with the text as readable as it was."""
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return dump(value)
    except RecursionError:
        raise FormatError("bad JSON: nested too deeply") from None
