"""Separate what a model says in a turn from its thoughts, which contain no calls.

Models think between tags within the text of the turn: ``<think>...</think>``. A call that is
drafted there must neither run nor count as a second call. All formats read a turn through
:func:`spoken`, so they share these rules:

- an opening tag at the beginning of a line starts a thought, which ends at the next closing tag,
  or at the end of the turn if there is none (the reply was cut at its token limit);
- an opening tag within a line does so only if a closing tag follows outside of calls;
- a closing tag without an opening one ends a thought that the chat template has opened, so all text
  before it is a thought;
- a tag inside of a call, a fenced block or quotes is text, so a command may print or search for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Span = tuple[int, int]  # begin and end of a part of a text
# Finds the first call that begins at or after a position; None if there is none
NextCall = Callable[[str, int], Span | None]

_NAMES = r"think|thinking|thoughts?|reasoning|seed:think"
_OPEN = (
    rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|begin_of_thought\|>"
    r"|<\|channel\|>(?:analysis|thought)(?:<\|message\|>|(?=\n))"
)
_CLOSE = (
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>|<channel\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
)
_MARK = re.compile(f"(?P<open>{_OPEN})|{_CLOSE}", re.IGNORECASE)
_CLOSING = re.compile(_CLOSE, re.IGNORECASE)
_FENCE = re.compile(r"(?:^|(?<=[>\]▷]))[ \t]*(`{3,})[^`\n]*\n", re.MULTILINE)
_QUOTES = frozenset("`'\"")
# The rest of any of these tags after its first character
_REST = (
    rf"(?:/?(?:{_NAMES})>|\|(?:START|END)_THINKING\|>|\|(?:begin|end)_of_thought\|>"
    r"|\|?channel\|>|/?THINK\]|/?think▷)"
)
_TO_ESCAPE = re.compile(rf"[<\[◁](?=\\*{_REST})", re.IGNORECASE)
_ESCAPED = re.compile(rf"([<\[◁])\\(?=\\*{_REST})", re.IGNORECASE)


def spoken(text: str, next_call: NextCall) -> str:
    """``text`` without its thoughts.

    Args:
        text: Text of a turn.
        next_call: Finds the calls of the format. Fenced blocks are found here.
    """
    if not _MARK.search(text):
        return text
    turn = _Turn(text, next_call)
    kept: list[str] = []
    begun = at = 0
    while mark := _MARK.search(text, at):
        inside = turn.span(at)
        if inside and inside[0] <= mark.start():
            at = max(inside[1], at + 1)
        elif _is_quoted(mark):
            at = mark.end()
        elif not mark["open"]:
            kept.clear()
            begun = at = mark.end()
        else:
            line = text.rfind("\n", begun, mark.start()) + 1
            first = not text[max(begun, line) : mark.start()].strip()
            end = turn.closing(mark.end(), anywhere=first)
            if end is None and not first:  # the model only mentions the tag
                at = mark.end()
                continue
            kept.append(text[begun : mark.start()])
            begun = at = len(text) if end is None else end
    return "".join([*kept, text[begun:]])


def plain_lines(text: str) -> str:
    """``text`` with LF at the end of each line, if all lines end in CR LF or all in CR.

    If only some do, the carriage returns are part of the content and stay.
    """
    if "\r" not in text:
        return text
    if "\n" not in text:
        return text.replace("\r", "\n")
    return text.replace("\r\n", "\n") if text.count("\n") == text.count("\r\n") else text


def escaped(reasoning: str) -> str:
    r"""``reasoning`` in a form that can precede a call: a tag in it is written ``<\think>``.

    So it is text and does not hide the call. If backslashes are there already, one is added, so
    that :func:`unescaped` gives back the same text.
    """
    return _TO_ESCAPE.sub(r"\g<0>\\", reasoning)


def unescaped(reasoning: str) -> str:
    """The reverse of :func:`escaped`."""
    return _ESCAPED.sub(r"\1", reasoning)


def _is_quoted(mark: re.Match[str]) -> bool:
    around = mark.string[max(0, mark.start() - 1) : mark.start()], mark.string[mark.end() :][:1]
    return all(char in _QUOTES for char in around)


class _Turn:
    """Cached searches in one text, so that the time stays proportional to its length.

    A search from some position has the same result from every later position up to its match. The
    results are therefore stored with the position at which they begin to hold.
    """

    def __init__(self, text: str, next_call: NextCall) -> None:
        self._text, self._next_call = text, next_call
        self._call: tuple[int, Span | None] | None = None
        self._fence: tuple[int, Span | None] | None = None
        self._closing: dict[bool, tuple[int, int | None]] = {}

    def span(self, at: int) -> Span | None:
        """The first call or fenced block from ``at`` on. A block with a call in it is skipped."""
        self._call = _still(self._call, at) or (at, self._next_call(self._text, at))
        self._fence = _still(self._fence, at) or (at, _fenced(self._text, at))
        call, fence = self._call[1], self._fence[1]
        if call and fence:
            return fence if fence[1] <= call[0] else call
        return call or fence

    def closing(self, at: int, anywhere: bool) -> int | None:
        """The end of the next closing tag, anywhere or only outside of calls; None without one."""
        known = self._closing.get(anywhere)
        if known and known[0] <= at and (known[1] is None or known[1] > at):
            return known[1]
        end, place = None, at
        while mark := _CLOSING.search(self._text, place):
            inside = None if anywhere else self.span(place)
            if inside and inside[0] <= mark.start():
                place = max(inside[1], place + 1)
            elif _is_quoted(mark):
                place = mark.end()
            else:
                end = mark.end()
                break
        self._closing[anywhere] = at, end
        return end


def _still(known: tuple[int, Span | None] | None, at: int) -> tuple[int, Span | None] | None:
    """A cached result of an earlier position, if it is also the result from ``at`` on."""
    if known and known[0] <= at and (known[1] is None or known[1][0] >= at):
        return known
    return None


def _fenced(text: str, at: int) -> Span | None:
    """The first closed fenced block from ``at`` on."""
    unclosed = 1 << 30  # length of the shortest fence that is known to have no closing fence
    fence = re.compile(r"[ \t]*(`{3,})[^`\n]*\n").match(text, at) or _FENCE.search(text, at)
    while fence:
        length = len(fence[1])
        if length < unclosed:
            end = re.compile(rf"^[ \t]*`{{{length},}}[ \t\r]*$", re.MULTILINE)
            if close := end.search(text, fence.end()):
                return fence.start(), close.end()
            unclosed = length
        if unclosed == 3:
            return None
        fence = _FENCE.search(text, fence.end())
    return None
