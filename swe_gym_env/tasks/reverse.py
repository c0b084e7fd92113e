"""Reverse a unified diff, so that it does what ``git apply -R`` would do."""

from __future__ import annotations

import re

from swe_gym_env.errors import SetupError

_HUNK = re.compile(r"@@ -(\d+(?:,\d+)?) \+(\d+(?:,\d+)?) @@(.*)", re.DOTALL)
# Header lines that are exchanged with each other
_SWAPPED = {
    "new file mode ": "deleted file mode ",
    "deleted file mode ": "new file mode ",
    "old mode ": "new mode ",
    "new mode ": "old mode ",
    "rename from ": "rename to ",
    "rename to ": "rename from ",
}
_ORDER = ("old mode ", "new mode ", "rename from ", "rename to ")


def reverse(patch: str) -> str:
    """The reverse of ``patch``.

    Raises:
        SetupError: It has a binary patch or a copy, which do not contain what would be restored.
    """
    if re.search(r"^(GIT binary patch|Binary files .* differ|copy (from|to) )", patch, re.M):
        raise SetupError("a patch with binary changes or copies cannot be reversed")
    parts = re.split(r"(?m)^(?=diff --git )", patch)
    return "".join(_file(part.splitlines(keepends=True)) for part in parts)


def _file(lines: list[str]) -> str:
    first = next((n for n, line in enumerate(lines) if line.startswith("@@ ")), len(lines))
    done = _header(lines[:first])
    at = first
    while at < len(lines):
        match = _HUNK.match(lines[at])
        if match is None:  # text between or after the files
            done.append(lines[at])
            at += 1
            continue
        done.append(f"@@ -{match[2]} +{match[1]} @@{match[3]}")
        end = _end(lines, at + 1, match[1], match[2])
        done += _body(lines[at + 1 : end])
        at = end
    return "".join(done)


def _header(lines: list[str]) -> list[str]:
    done = []
    for line in lines:
        word = next((word for word in _SWAPPED if line.startswith(word)), None)
        if line.startswith("diff --git "):
            match = re.fullmatch(r"diff --git a/(.*) b/(.*)(\n?)", line)
            line = f"diff --git a/{match[2]} b/{match[1]}{match[3]}" if match else line
        elif match := re.fullmatch(r"index (\w+)\.\.(\w+)(.*)", line, re.DOTALL):
            line = f"index {match[2]}..{match[1]}{match[3]}"
        elif line.startswith("--- "):
            line = "+++ " + _side(line[4:], "b")
        elif line.startswith("+++ "):
            line = "--- " + _side(line[4:], "a")
        elif word:
            line = _SWAPPED[word] + line[len(word) :]
        done.append(line)
    for first, second in (("--- ", "+++ "), _ORDER[:2], _ORDER[2:]):
        _in_order(done, first, second)
    return done


def _side(path: str, side: str) -> str:
    return f"{side}/{path[2:]}" if path.startswith(("a/", "b/")) else path


def _in_order(lines: list[str], first: str, second: str) -> None:
    places = [n for n, line in enumerate(lines) if line.startswith((first, second))]
    for place, line in zip(
        places,
        sorted((lines[n] for n in places), key=lambda line: line.startswith(second)),
        strict=True,
    ):
        lines[place] = line


def _end(lines: list[str], at: int, old: str, new: str) -> int:
    """The end of a hunk's lines, by the counts in its header."""
    left = [int(side.partition(",")[2] or 1) for side in (old, new)]
    while at < len(lines) and (left[0] > 0 or left[1] > 0):
        left[0] -= lines[at][:1] in (" ", "-", "\n")
        left[1] -= lines[at][:1] in (" ", "+", "\n")
        at += 1
    return at + (at < len(lines) and lines[at].startswith("\\"))


def _body(lines: list[str]) -> list[str]:
    """Reversed lines of a hunk, removed ones first, so that each keeps its "no newline" mark."""
    done: list[str] = []
    removed: list[str] = []
    added: list[str] = []
    last = done
    for line in lines:
        if line.startswith("\\"):
            last.append(line)
            continue
        if line[:1] not in "+-" or (line[:1] == "-" and added):
            done += [*removed, *added]
            removed, added = [], []
        if line.startswith("-"):
            last = added
            added.append("+" + line[1:])
        elif line.startswith("+"):
            last = removed
            removed.append("-" + line[1:])
        else:
            last = done
            done.append(line)
    return [*done, *removed, *added]
