"""Text at the edges: as it comes from a model or a server, into bytes, and onto a terminal.

Bytes of a repository that are not UTF-8 stand in a text as U+DC80 to U+DCFF ("surrogateescape") and
become the same bytes again. JSON can also say half a character (a lone surrogate, as in an emoji
that was cut in two), which stands for no bytes at all. Neither UTF-8 nor a tokenizer takes it, so
it must not get beyond the part that received it.
"""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# C0 and C1 without tab and newline; what turns the direction of writing; what is no character
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def joined(text: str) -> str:
    """``text`` with two halves that belong together made one character."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def whole(text: str) -> str:
    """``text`` joined, and U+FFFD for every half that is left."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unusable(text: str) -> str:
    """Why ``text`` cannot be learned as it was meant; "" where nothing is wrong with it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate)"
    return "the text holds a NUL character, which no command can hold" if "\0" in text else ""


def half_character(text: str) -> str:
    """The first lone surrogate in ``text`` that stands for no byte, as ``'\\ud83d'`` and its place;
    empty where the text can be written as bytes."""
    match = None if text.isascii() else _HALF.search(text)
    return f"'\\u{ord(match[0]):04x}' at character {match.start() + 1}" if match else ""


def shown(text: str) -> str:
    """``text`` for a terminal or a report: control characters and lone surrogates as escapes.

    A file's or a test's name may hold commands to the terminal. Newlines and tabs stay.
    """
    return _UNSAFE.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
