"""Edits of a source text at exact byte positions, and the context that an operator sees."""

from __future__ import annotations

import ast
import threading
from dataclasses import dataclass

_PARSING = threading.Lock()


def parse(data: bytes) -> ast.Module:
    """``ast.parse``, in one thread at a time.

    CPython 3.11 has one recursion count for all threads and fails with SystemError if several parse
    at the same time (python/cpython#106905).
    """
    with _PARSING:
        return ast.parse(data)


@dataclass(frozen=True)
class Edit:
    """Replaces ``source[start:end]`` (bytes) by ``new``. ``line``: of the enclosing statement."""

    operator: str
    start: int
    end: int
    new: bytes
    line: int

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new + source[self.end :]


class Source:
    """A source file with the byte offsets of its syntax nodes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.tree = parse(data)
        self._starts = [0]
        for line in data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def line_start(self, line: int) -> int:
        return self._starts[line - 1]

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        return self.data[self.start(node) : self.end(node)]


@dataclass(frozen=True)
class Context:
    """The place of a node: its parents from the function down, and the function's parameters."""

    function: ast.FunctionDef | ast.AsyncFunctionDef
    parents: tuple[ast.AST, ...]
    parameters: tuple[str, ...]

    @property
    def parent(self) -> ast.AST:
        return self.parents[-1]
