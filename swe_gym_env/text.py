"""Text at the boundaries: from a model or a server, into bytes, and onto a terminal.

Bytes of a repository that are not UTF-8 become the characters U+DC80 to U+DCFF in a text
("surrogateescape"), and the same bytes again when it is written. JSON can also contain half of a
character (a lone surrogate, as in an emoji that was cut in two), which stands for no bytes at all.
Neither UTF-8 nor a tokenizer accepts that, so the code that receives a text removes or refuses it.
"""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# Control characters (C0 and C1) without tab and newline, characters that change the direction of
# writing, and lone surrogates
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def joined(text: str) -> str:
    """``text`` with each pair of surrogates replaced by the character that it stands for."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def whole(text: str) -> str:
    """As :func:`joined`, with U+FFFD in place of every lone surrogate that is left."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unusable(text: str) -> str:
    """Why ``text`` cannot be a training target; empty if it can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate)"
    return "the text holds a NUL character, which no command can hold" if "\0" in text else ""


def half_character(text: str) -> str:
    """The first lone surrogate in ``text`` that stands for no byte, and its position.

    Empty if the text can be written as bytes.
    """
    match = None if text.isascii() else _HALF.search(text)
    return f"'\\u{ord(match[0]):04x}' at character {match.start() + 1}" if match else ""


def shown(text: str) -> str:
    """``text`` for a terminal or a report: control characters and lone surrogates become escapes.

    The name of a file or a test may contain commands to the terminal. Newlines and tabs stay.
    """
    return _UNSAFE.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
