"""Parse JSON that a model wrote: the result is a valid value or a FormatError, for any text.

Models write deeply nested, truncated and mistyped JSON. The errors that the json module raises on
such text (RecursionError, numbers with too many digits) are caught here, for every format with
JSON.
"""

from __future__ import annotations

import json
from typing import Any

from swe_gym_env.actions.base import FormatError
from swe_gym_env.tools.schema import TOOLS
from swe_gym_env.types import ToolCall

# Models write unescaped newlines inside of strings; the meaning is clear, so they are accepted
_DECODER = json.JSONDecoder(strict=False)


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and the position of its end."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        what, at = error.msg.lower(), text[error.pos : error.pos + 20]
        raise FormatError(f"bad JSON: {what} at {at!r}" if at else f"bad JSON: {what}") from None
    except ValueError:  # a number with more digits than Python accepts
        raise FormatError("bad JSON: a number is too long") from None
    except RecursionError:
        raise FormatError("bad JSON: nested too deeply") from None


def whole(text: str) -> Any:
    """The JSON value of the whole ``text``."""
    text = text.strip()
    value, end = decode(text)
    if end < len(text):
        raise FormatError(f"more text after the JSON: {text[end:].strip()[:20]!r}")
    return value


def to_call(function: Any, reasoning: str) -> ToolCall:
    """The call that ``{"name": ..., "arguments": ...}`` describes. A null argument is left out."""
    if not isinstance(function, dict):
        raise FormatError("the call is not a JSON object")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise FormatError('the call has no "name"')
    if isinstance(arguments, str):  # OpenAI's API has the object as a string of JSON
        arguments = whole(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise FormatError('"arguments" is not a JSON object')
    given = {key: _text(value) for key, value in arguments.items() if value is not None}
    return ToolCall(name, given, reasoning)


def to_json(call: ToolCall) -> dict[str, Any]:
    """The arguments of ``call`` as JSON values, with numbers where the tool takes numbers."""
    if not call.name:
        raise FormatError("a call without a name cannot be written")
    tool = TOOLS.get(call.name)
    return tool.json_values(call.arguments) if tool else dict(call.arguments)


def dump(value: Any) -> str:
    """JSON on one line, without escaping of characters that need none."""
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return dump(value)
    except RecursionError:
        raise FormatError("bad JSON: nested too deeply") from None
