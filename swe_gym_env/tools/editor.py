"""The editor tool: view and change files without the quoting of a shell.

It works on the files of the sandbox without a shell, so it neither sees nor changes the state of
the bash tool. A call that cannot be carried out is answered with the reason and changes nothing. A
file with Windows line ends is edited as if it had LF only, and keeps its line ends.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools.bash import clip, escape_controls, readable

MAX_FILE = 2_000_000  # bytes; larger files are not source code, and each edit stores a copy
MAX_UNDO = 10  # edits of one file that can be undone
CONTEXT = 3  # lines shown before and after a change
MOST_LINES = 10  # line numbers listed if a text occurs several times
EXEC_SECONDS = 20.0
_LIST = (
    "cd -- {} && find . -mindepth 1 -maxdepth 2 \\( -name '.*' -o -name __pycache__ \\) -prune "
    "-o -type d -exec printf '%s/\\n' {{}} + -o -print"
)


class _Refused(Exception):  # noqa: N818
    """Why a call cannot be carried out; the message becomes the observation."""


@dataclass(frozen=True)
class _Edit:
    before: bytes | None  # content before the edit; None if there was no file
    after: bytes


class Editor:
    """The tool ``str_replace_editor`` of one episode.

    Args:
        sandbox: Where the files are.
        output_limit: Characters of an observation.
    """

    def __init__(self, sandbox: Sandbox, output_limit: int = 4000) -> None:
        self.sandbox = sandbox
        self.output_limit = output_limit
        self._edits: dict[str, deque[_Edit]] = defaultdict(lambda: deque(maxlen=MAX_UNDO))

    def run(self, arguments: Mapping[str, Any], time_left: float = float("inf")) -> str:
        """Carry out a call and return the observation.

        Args:
            arguments: The values that the tool's schema has read.
            time_left: Seconds of the episode that are left.

        Raises:
            SandboxError: The sandbox has ended.
        """
        path = arguments["path"].strip()
        try:
            _check(path)
            if arguments["command"] == "view":
                observation = self._view(path, arguments.get("view_range"), time_left)
            elif arguments["command"] == "create":
                observation = self._create(path, _given(arguments, "file_text"))
            elif arguments["command"] == "str_replace":
                new = arguments.get("new_str", "")
                observation = self._replace(path, _given(arguments, "old_str"), new)
            elif arguments["command"] == "insert":
                line = _given(arguments, "insert_line")
                observation = self._insert(path, line, _given(arguments, "new_str"))
            else:
                observation = self._undo(path)
        except _Refused as reason:
            observation = f"(not done: {reason})"
        except FileNotFoundError:
            observation = f"(not done: there is no file {path})"
        except IsADirectoryError:
            observation = f"(not done: {path} is a folder)"
        return clip("", observation, 0, self.output_limit)

    def _view(self, path: str, span: list[int] | None, time_left: float) -> str:
        try:
            data = self._read(path)
        except IsADirectoryError:
            return self._list(path, time_left)
        lines = _lines(_Text.of(path, data).text)
        first, last = span or (1, -1)
        last = len(lines) if last == -1 else min(last, len(lines))
        if not lines and not span:
            return "(the file is empty)"
        if not 1 <= first <= last:
            raise _Refused(f"view_range is {span}, and {path} has {len(lines)} lines")
        return _numbered(lines, first, last)

    def _list(self, path: str, time_left: float) -> str:
        command = _LIST.format(shlex.quote(path))
        result = self.sandbox.exec(command, timeout=max(0.1, min(EXEC_SECONDS, time_left)), cwd="/")
        if result.timed_out:
            raise _Refused(f"listing {path} takes too long")
        names = sorted(line.removeprefix("./") for line in readable(result.output).split("\n"))
        return "\n".join(name for name in names if name) or "(the folder is empty)"

    def _create(self, path: str, text: str) -> str:
        try:
            self._read(path)
        except FileNotFoundError:
            self._write(path, None, _encode(text))
            return f"(created {path}: {len(_lines(text))} lines)"
        raise _Refused(f"{path} exists already; change it with str_replace or insert")

    def _replace(self, path: str, old: str, new: str) -> str:
        file = self._file(path)
        old, new = file.with_line_ends(old), file.with_line_ends(new)
        if not old:
            raise _Refused("old_str is empty")
        if old == new:
            raise _Refused("old_str and new_str are the same")
        at = file.text.find(old)
        if at < 0:
            raise _Refused(
                f"old_str is not in {path}; copy it exactly, without the line numbers of a view"
            )
        if file.text.find(old, at + 1) >= 0:
            count = max(2, file.text.count(old))  # str.count counts two that overlap as one
            where = ", ".join(map(str, _starts(file.text, old)))
            more = ", ..." if count > MOST_LINES else ""
            raise _Refused(
                f"old_str stands {count} times in {path}, on lines {where}{more}; add to it"
            )
        text = file.text[:at] + new + file.text[at + len(old) :]
        self._write(path, file.data, file.encode(text))
        first = text.count("\n", 0, at) + 1
        return _snippet(text, first, first + new.count("\n"))

    def _insert(self, path: str, line: int, new: str) -> str:
        file = self._file(path)
        lines = file.text.split("\n")
        count = len(_lines(file.text))
        if not 0 <= line <= count:
            raise _Refused(f"insert_line is {line}, and {path} has {count} lines")
        added = file.with_line_ends(new).removesuffix("\n").split("\n")
        text = "\n".join([*lines[:line], *added, *(lines[line:] or [""])])
        self._write(path, file.data, file.encode(text))
        return _snippet(text, line + 1, line + len(added))

    def _undo(self, path: str) -> str:
        edits = self._edits.get(path)
        if not edits:
            raise _Refused(f"no edit of {path} is left to undo")
        if self._file(path).data != edits[-1].after:
            raise _Refused(f"{path} was changed by something else since its last edit")
        self._put(path, edits[-1].before, edits[-1].after)
        edits.pop()
        return f"(undone: {path} is as it was before its last edit)"

    def _file(self, path: str) -> _Text:
        return _Text.of(path, self._read(path))

    def _read(self, path: str) -> bytes:
        try:
            data = self.sandbox.read(path)
        except (IsADirectoryError, FileNotFoundError):
            raise
        except OSError as error:
            raise _Refused(f"cannot read {path}: {error.strerror}") from None
        if len(data) > MAX_FILE:
            raise _Refused(f"{path} has more than {MAX_FILE} bytes; use bash")
        return data

    def _write(self, path: str, before: bytes | None, after: bytes) -> None:
        self._put(path, after, before)
        self._edits[path].append(_Edit(before, after))

    def _put(self, path: str, data: bytes | None, otherwise: bytes | None) -> None:
        """Make ``data`` the content of a file (None: no file); on failure restore ``otherwise``."""
        try:
            self._set(path, data)
        except OSError as error:  # a full disk leaves a part of the file
            with contextlib.suppress(OSError):
                self._set(path, otherwise)
            raise _Refused(f"cannot write {path}: {error.strerror}") from None

    def _set(self, path: str, data: bytes | None) -> None:
        if data is None:
            command = f"rm -f -- {shlex.quote(path)}"
            self.sandbox.exec(command, timeout=EXEC_SECONDS, cwd="/")
        else:
            self.sandbox.write(path, data)


@dataclass(frozen=True)
class _Text:
    """The text of a file with LF as line end.

    Attributes:
        data: The content of the file.
        text: The same as text, with LF.
        windows: Whether the file has CR LF throughout; then it is written with CR LF again.
    """

    data: bytes
    text: str
    windows: bool

    @classmethod
    def of(cls, path: str, data: bytes) -> _Text:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise _Refused(f"{path} is not UTF-8 text; use bash") from None
        if "\0" in text:
            raise _Refused(f"{path} is a binary file; use bash")
        windows = 0 < text.count("\n") == text.count("\r\n")
        return cls(data, text.replace("\r\n", "\n") if windows else text, windows)

    def with_line_ends(self, argument: str) -> str:
        """An argument of the agent with the line ends that ``text`` has."""
        return argument.replace("\r\n", "\n") if self.windows else argument

    def encode(self, text: str) -> bytes:
        return _encode(text.replace("\n", "\r\n") if self.windows else text)


def _check(path: str) -> None:
    if not path.isprintable():  # a path cannot contain NUL or lone surrogates, for example
        raise _Refused("the path holds characters that cannot be printed; use bash")
    if not path.startswith("/"):
        raise _Refused(f"path is {path[:80]!r}, but must be absolute: begin with /")


def _given(arguments: Mapping[str, Any], name: str) -> Any:
    if name not in arguments:
        raise _Refused(f"{arguments['command']} needs {name}")
    return arguments[name]


def _encode(text: str) -> bytes:
    if "\0" in text:
        raise _Refused("the text holds a NUL character; use bash")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _Refused("the text holds half a character (a lone surrogate)") from None


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _numbered(lines: list[str], first: int, last: int) -> str:
    shown = enumerate(lines[first - 1 : last], first)
    return "\n".join(f"{number}\t{escape_controls(line)}" for number, line in shown)


def _snippet(text: str, first: int, last: int) -> str:
    """The changed lines, and ``CONTEXT`` lines before and after them."""
    lines = _lines(text)
    if not lines:
        return "(done; the file is empty now)"
    return "(done)\n" + _numbered(lines, max(1, first - CONTEXT), last + CONTEXT)


def _starts(text: str, part: str) -> list[int]:
    """The first ``MOST_LINES`` lines on which ``part`` begins."""
    found: list[int] = []
    at, line, counted = text.find(part), 1, 0
    while at >= 0 and len(found) < MOST_LINES:
        line += text.count("\n", counted, at)
        found, counted = [*found, line], at
        at = text.find(part, at + 1)
    return list(dict.fromkeys(found))
