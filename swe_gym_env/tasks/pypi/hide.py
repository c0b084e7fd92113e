"""Remove tests from a test file, so that an agent cannot read the tests that grade it."""

from __future__ import annotations

import ast
from collections.abc import Collection

from swe_gym_env.errors import SWEGymError
from swe_gym_env.tasks.pypi.edits import parse


class CannotHideError(SWEGymError):
    """The test is not an ordinary function of a file in the tree."""


def hide(source: bytes, first_lines: Collection[int]) -> bytes:
    """``source`` without some functions. A class or block that becomes empty gets a ``pass``.

    Args:
        source: Content of the file.
        first_lines: The lines at which the functions begin, decorators included (as in
            ``co_firstlineno``).

    Raises:
        CannotHideError: There is no function at one of the lines.
    """
    lines = source.splitlines(keepends=True)
    left = set(first_lines)
    removed: list[tuple[int, int, bytes]] = []

    def visit(node: ast.AST) -> None:
        for name in ("body", "orelse", "finalbody", "handlers"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            gone = [child for child in block if _first_line(child) in left]
            for child in block:
                if child in gone:
                    left.discard(_first_line(child))
                    removed.append((_first_line(child), child.end_lineno or child.lineno, b""))
                elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    visit(child)
            if gone and len(gone) == len(block):
                first, last, _ = removed[-1]
                indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
                removed[-1] = (first, last, indent + b"pass\n")

    visit(parse(source))
    if left:
        raise CannotHideError(f"no test function begins at line {min(left)}")
    for first, last, new in sorted(removed, reverse=True):
        lines[first - 1 : last] = [new] if new else []
    result = b"".join(lines)
    parse(result)
    return result


def _first_line(node: ast.AST) -> int:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return -1
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
