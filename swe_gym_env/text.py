"""Text as it comes from a model or a server, before it is stored, sent on or trained on.

JSON can say half a character (a lone surrogate, as in an emoji that was cut in two). Neither UTF-8
nor a tokenizer takes it, so it must not get beyond the part that received it.
"""

from __future__ import annotations


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
