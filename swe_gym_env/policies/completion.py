"""What a chat server's answer says: the words of the model, or a call, or nothing at all.

Whatever the model generated is its turn, if only a malformed one: thoughts that used up all its
tokens, a refusal, a reply that a filter cut. An answer that shows no sign of a generated token is
the server's fault, and the request is sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swe_gym_env.actions import FormatError
from swe_gym_env.actions.json_call import to_call
from swe_gym_env.types import ToolCall

# Where servers put what a model thinks: never part of the turn, and not sent back
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_BROKEN = {"abort", "aborted", "error", "cancelled", "canceled"}
_CUT = {"length", "max_tokens", "content_filter", "model_length", "repetition", "safety"}


@dataclass(frozen=True)
class Completion:
    """Exactly one of ``text`` and ``call`` is set. ``usage`` is what the server says it billed."""

    text: str | None
    call: ToolCall | None
    usage: Any


def completion(answer: Any) -> Completion | None:
    """None where the server generated nothing. KeyError and the like where it is no answer."""
    choice, usage = answer["choices"][0], answer.get("usage")
    message, ended = choice["message"], choice.get("finish_reason")
    if not isinstance(message, dict) or str(ended).lower() in _BROKEN:
        return None
    words = _words(message.get("content"))
    calls = message.get("tool_calls") or [
        {"function": one} for one in [message.get("function_call")] if one
    ]
    if calls:
        return _called(calls, words or "", usage)
    if words is None and isinstance(message.get("refusal"), str):
        words = message["refusal"]
    if words is None and (
        str(ended).lower() in _CUT
        or any(message.get(name) for name in _THOUGHTS)
        or (count(usage, "completion_tokens") or 0) > 0
    ):
        words = ""
    return None if words is None else Completion(words, None, usage)


def count(usage: Any, name: str) -> int | None:
    """Not every server counts, and a proxy may put anything there."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if type(found) is int and found >= 0 else None


def _words(content: Any) -> str | None:
    """The text of a content, which may come in parts; None where there is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [
        part if isinstance(part, str) else part.get("text")
        for part in content
        if isinstance(part, str)
        or (isinstance(part, Mapping) and part.get("type") in (None, "text", "output_text"))
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts else None


def _called(calls: Any, words: str, usage: Any) -> Completion:
    """A call that the server parsed out of the text. Anything but one call stays text, which the
    action format then refuses."""
    try:
        if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict):
            return Completion(None, to_call(calls[0].get("function"), words.strip()), usage)
    except FormatError:
        pass
    text = json.dumps({"content": words, "tool_calls": calls}, ensure_ascii=False)
    return Completion(text, None, usage)
