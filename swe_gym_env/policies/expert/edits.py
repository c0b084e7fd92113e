"""A short shell command that makes a change, because a small student has to learn to write it.

One line changed is ``sed -i '302,308s/OLD/NEW/w /dev/stdout' FILE``: OLD is the change with a token
or two around it and stands once in these lines, which are lines that were looked at. A small model
copies text far better than it counts lines. ``w`` prints the changed line: without it a miss looks
like a hit, and nobody who reads along could say what to do next. Removed and added lines are sed's
``d``, ``a`` and ``c`` at a line number. What sed cannot say (a newline missing at the end of a
file, odd bytes) is a short Python heredoc.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from swe_gym_env.patches import Block

_TOKEN = re.compile(
    r"[^\W\d]\w*|\d[\w.]*|\s+|(?:\*\*|//|<<|>>)=?|[-+*/%&|^@<>=!:]=|->|.", re.DOTALL
)
_SUBSTITUTES = re.compile(r"\d+s\W")

CONTEXT = 1  # tokens, blanks not counted, on each side of a change


@dataclass(frozen=True)
class Fragment:
    """``old`` becomes ``new``; the first ``old`` in its line is the place that is meant."""

    old: str
    new: str


@dataclass(frozen=True)
class Edit:
    """What the shell is given, and of it what sed is given ("" for the heredoc form)."""

    command: str
    script: str = ""


def fragment(old: str, new: str) -> Fragment:
    """The cheapest token-aligned replacement that turns line ``old`` into ``new``."""
    a, b, head, tail = _aligned(old, new)
    best, best_cost = Fragment(old, new), len(old) + len(new) + 1000
    for left in range(head + 1):
        start = head - left
        offset = len("".join(a[:start]))
        for right in range(tail + 1):
            text = "".join(a[start : len(a) - tail + right])
            if not text or old.find(text) != offset:
                continue
            found = Fragment(text, "".join(b[start : len(b) - tail + right]))
            cost = len(substitution(found)) + 3 * (text != text.strip())
            if cost < best_cost:
                best, best_cost = found, cost
            break  # more to the right only makes it longer
    return best


def _aligned(old: str, new: str) -> tuple[list[str], list[str], int, int]:
    """The tokens of both, and how many they share at their beginnings and at their ends."""
    a, b = _TOKEN.findall(old), _TOKEN.findall(new)
    room = min(len(a), len(b))
    head = 0
    while head < room and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < room - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    return a, b, head, tail


def substitution(change: Fragment, dots: bool = False) -> str:
    """``s/OLD/NEW/`` with both sides escaped for sed's basic regular expressions; ``dots`` leaves
    the dots of OLD as they are, as people do where that is as good."""
    text = change.old + change.new
    mark = next((c for c in "/|#,~" if c not in text), "/")
    special = r"\\*\[\]^$" + re.escape(mark) + ("" if dots else ".")
    old = re.sub(rf"([{special}])", r"\\\1", change.old)
    new = re.sub(r"([\\&" + re.escape(mark) + r"])", r"\\\1", change.new)
    return f"s{mark}{old}{mark}{new}{mark}"


def edit_lines(path: str, present: Sequence[str], blocks: Sequence[Block]) -> list[Edit]:
    """The ways to apply ``blocks`` to the lines ``present`` of ``path``, the shortest first.

    The last one is right by construction; the caller checks the one with a script against sed.
    """
    edits = [_python(path, blocks)]
    parts = [_sed(present, block) for block in blocks]
    if all(parts):
        one_line = all("\n" not in p and not re.match(r"[\d,]*[aic]\\", p) for p in parts)
        script = ("; " if one_line else "\n").join(parts)
        edits.insert(
            0, _sed_edit(path, script, len(parts) == 1 and bool(_SUBSTITUTES.match(script)))
        )
    return edits


def edit_by_content(
    path: str, present: Sequence[str], block: Block, span: tuple[int, int] | None = None
) -> Edit | None:
    """``sed -i 'A,Bs/OLD/NEW/'`` where OLD stands once in the lines A to B, ``span``; or in the
    whole file, and then without a range."""
    if len(block.old) != 1 or len(block.new) != 1:
        return None
    old, new = block.old[0].strip("\n"), block.new[0].strip("\n")
    a, b, head, tail = _aligned(old, new)
    first, last = span or (1, len(present))
    lines = present[first - 1 : last]
    for around in range(CONTEXT, len(a) + 1):
        left, right = _widened(a, head, tail, around)
        text = "".join(a[left : len(a) - right])
        if text and sum(line.count(text) for line in lines) == 1:
            change = Fragment(text, "".join(b[left : len(b) - right]))
            loose = re.compile(re.escape(text).replace(r"\.", "."))
            dots = sum(len(loose.findall(line)) for line in lines) == 1
            address = "" if span is None else f"{first},{last}" if first < last else f"{first}"
            return _sed_edit(path, address + substitution(change, dots), True)
        if not left and not right:
            break
    return None


def _widened(tokens: Sequence[str], head: int, tail: int, around: int) -> tuple[int, int]:
    """``head`` and ``tail`` less by the ``around`` words next to the change, indentation apart."""
    words = [i for i, token in enumerate(tokens) if not token.isspace()]
    before = [i for i in words if i < head]
    behind = [i for i in words if i >= len(tokens) - tail]
    left = before[-around:][0] if before else head
    right = len(tokens) - 1 - behind[:around][-1] if behind else tail
    return left, right


def _sed(present: Sequence[str], block: Block) -> str:
    """Part of a sed script for one block, or "" if sed cannot say it."""
    first, last = block.start + 1, block.start + len(block.old)
    lines = [*block.old, *block.new]
    if any(not line.endswith("\n") for line in lines) or not _plain("".join(lines)):
        return ""
    where = str(first) if first == last else f"{first},{last}"
    if not block.new:
        return f"{where}d"
    if len(block.old) == len(block.new) == 1 and block.old != ("\n",):
        short = f"{first}{substitution(fragment(block.old[0][:-1], block.new[0][:-1]))}"
        whole = f"{first}c\\{_sed_text(block.new)}"
        return short if len(short) <= len(whole) or block.new == ("\n",) else whole
    if block.new == ("\n",) and not block.old and block.start:
        return f"{block.start}G"
    if block.new[0] == "\n":
        return ""  # an `a` or `c` cannot begin with an empty line
    if not block.old:
        text = _sed_text(block.new)
        if block.start == 0:
            return f"1i\\{text}" if present else ""
        return f"{block.start}a\\{text}"
    return f"{where}c\\{_sed_text(block.new)}"


def _sed_text(lines: Sequence[str]) -> str:
    return "\\\n".join(line[:-1].replace("\\", "\\\\") for line in lines)


def _sed_edit(path: str, script: str, prints: bool = False) -> Edit:
    """``prints``: show the line that an ``s`` has changed."""
    shown = script + "w /dev/stdout" * prints
    return Edit(f"sed -i {quote(shown)} {shlex.quote(path)}", script)


def quote(text: str) -> str:
    """Quotes for the shell, as a person would write them."""
    if "'" not in text:
        return f"'{text}'"
    if not re.search(r'["$`\\]', text):
        return f'"{text}"'
    return "'" + text.replace("'", "'\\''") + "'"


def _plain(text: str) -> bool:
    """No carriage returns, other controls or undecodable bytes."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)


def _python(path: str, blocks: Sequence[Block]) -> Edit:
    steps = []
    for block in reversed(blocks):
        new = ", ".join(repr(line.encode("utf-8", "surrogateescape")) for line in block.new)
        steps.append(f"L[{block.start}:{block.start + len(block.old)}] = [{new}]")
    body = "\n".join(steps)
    return Edit(
        f"python - <<'EOF'\nL = open({path!r}, 'rb').readlines()\n{body}\n"
        f"open({path!r}, 'wb').writelines(L)\nEOF"
    )
