"""Where to look next, by what the history names: the expert knows the place, but may not show it.

Of the paths, names and line numbers that already stand in the history it takes the ones that lead
to the lines to be edited, as a lucky but honest reader would.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from swe_gym_env.policies.expert.evidence import History
from swe_gym_env.policies.expert.workspace import hits
from swe_gym_env.sandbox.base import Sandbox

WHOLE = 60  # lines of a named range that are viewed at once
WINDOW = 25  # lines viewed from a single line number on
FAR = 160  # lines that are paged through before another way is tried
MANY = 40  # hits of a search that are still worth reading
_PYTHON = "--include='*.py'"


class Search:
    """The ways from the history to line ``at`` (index from 0) of ``path``."""

    def __init__(
        self,
        history: History,
        sandbox: Sandbox,
        path: str,
        present: Sequence[str],
        at: int,
        view: Callable[[str, int, int], str],
    ) -> None:
        self.history, self.sandbox, self.path = history, sandbox, path
        self.present, self.at, self.view = present, at, view
        self.line = at + 1
        self.shown = {
            n
            for n, texts in history.numbered(path).items()
            if n <= len(present) and present[n - 1].rstrip() in texts
        }

    def next(self) -> tuple[str, str] | None:
        """The next command and its kind ("view" or "search"), or None if every way was tried."""
        return next(
            ((c, kind) for c, kind in self._ways() if not self.history.tried(c)),
            None,
        )

    def _ways(self) -> Iterator[tuple[str, str]]:
        named = self.history.names(self.path)
        if named:
            yield from ((c, "view") for c in self._ranges())
            yield from ((c, "view") for c in self._pages(WINDOW * 2))
        yield from ((c, "search") for c in self._definitions(named))
        if named:
            yield from ((c, "view") for c in self._pages(FAR))
            yield from ((c, "search") for c in self._outline())
            yield from ((c, "view") for c in self._pages(len(self.present)))
            yield self.view(self.path, 1, WHOLE), "view"
            yield from ((c, "view") for c in self._pages(len(self.present)))
            return
        yield from ((c, "search") for c in self._words())
        yield "git ls-files '*.py'", "search"
        yield from ((c, "search") for c in self._folders())

    def _folders(self) -> Iterator[str]:
        """Of a large repository no list of all files is shown whole: folder by folder, then."""
        yield "ls -d */"
        *above, folder_of_file = [str(folder) for folder in PurePosixPath(self.path).parents][
            -2::-1
        ] or [""]
        for folder in above:
            if f"{folder}/" in self.history.text:
                yield f"ls -d {shlex.quote(folder)}/*/"
        if folder_of_file and f"{folder_of_file}/" in self.history.text:
            yield f"git ls-files {shlex.quote(f'{folder_of_file}/*.py')}"

    def _ranges(self) -> Iterator[str]:
        spans = [(b - a, a, b) for a, b in self.history.ranges(self.path) if a <= self.line <= b]
        for _, first, last in sorted(spans):
            step = WHOLE if last - first < WHOLE else WHOLE * 2 // 3
            for start in range(first, last + 1, step):
                end = min(start + step - 1, last, len(self.present))
                if not self.shown.issuperset(range(start, end + 1)):
                    yield self.view(self.path, start, min(start + step - 1, last))

    def _pages(self, reach: int) -> Iterator[str]:
        """From the nearest known line number on, or around one just behind."""
        points = self.history.points(self.path)
        before = [n for n in points if 0 <= self.line - n <= reach]
        if before:
            start = max(before)
            size = WINDOW
            if start in self.shown and start - 1 in self.shown:  # turn the page
                start, size = start + 1, WINDOW * 2
            yield self.view(self.path, start, start + size - 1)
        behind = [n for n in points if 0 < n - self.line <= WINDOW]
        if behind:
            start = max(1, min(behind) - WINDOW)
            yield self.view(self.path, start, min(behind) + 5)

    def _definitions(self, named: bool) -> Iterator[str]:
        where = f"{shlex.quote(self.path)}" if named else f"{_PYTHON} ."
        flags = "-n" if named else "-rn"
        for word, name in self._enclosing():
            if name not in self.history.words:
                continue
            text = f"{word} {name}" if word else f"^{name}"
            yield f'grep {flags} "{text}" {where}'

    def _enclosing(self) -> list[tuple[str, str]]:
        """The function and classes around the line, innermost first; at top level its own name."""
        found: list[tuple[str, str]] = []
        depth = 10_000
        for i in range(min(self.at, len(self.present) - 1), -1, -1):
            line = self.present[i]
            if not line.strip():
                continue
            indent = len(line) - len(line.lstrip())
            match = re.match(r"\s*(?:async\s+)?(def|class)\s+(\w+)", line)
            if match and indent < depth:
                found.append((match[1], match[2]))
            elif not found and i == self.at:
                variable = re.match(r"(\w+)\s*(?::[^=]+)?=", line)
                if variable:
                    found.append(("", variable[1]))
            depth = min(depth, indent) if i != self.at or match else min(depth, indent + 1)
            if depth == 0:
                break
        return found

    def _outline(self) -> Iterator[str]:
        """The definitions of the file, the coarsest list that leads near enough."""
        for pattern in ("^def ", "^class ", "^def \\|^class ", "    def ", "def "):
            regex = re.compile(pattern.replace("\\|", "|"))
            lines = [i + 1 for i, line in enumerate(self.present) if regex.search(line)]
            near = [n for n in lines if 0 <= self.line - n <= FAR]
            if near and len(lines) <= MANY * 2:
                yield f'grep -n "{pattern}" {shlex.quote(self.path)}'

    def _words(self) -> Iterator[str]:
        """Words of the history that occur in the file: definitions first, then the rarest."""
        text = "".join(self.present)
        counts: dict[str, int] = {}
        for word in re.findall(r"[^\W\d]\w{2,}", text):
            counts[word] = counts.get(word, 0) + 1
        shared = sorted(self.history.words & counts.keys(), key=lambda w: (counts[w], w))
        defined = [
            (kind, word)
            for word in shared
            if (kind := next(iter(re.findall(rf"\b(def|class) {word}\b", text)), ""))
        ]
        commands = [f'grep -rn "{kind} {word}" {_PYTHON} .' for kind, word in defined[:4]]
        commands += [f'grep -rnw "{word}" {_PYTHON} .' for word in shared[:6]]
        for command in commands:
            if self.history.tried(command):
                continue
            lines = hits(self.sandbox, command)
            if len(lines) <= MANY and any(self.path in line for line in lines):
                yield command
