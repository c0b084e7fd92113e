"""Find all bugs that can be injected into a function: try every operator at every syntax node.

This is separate from the operators, so that they remain a list of small cases, and the order of the
search and the parts that it skips can be read in one place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from swe_gym_env.tasks.pypi.edits import Context, Edit, Source
from swe_gym_env.tasks.pypi.operators import OPERATORS


def edits(function: ast.FunctionDef | ast.AsyncFunctionDef, src: Source) -> list[Edit]:
    """Every edit that any operator would make in the body of ``function``, in source order."""
    found: dict[bytes, Edit] = {}
    arguments = function.args
    parameters = tuple(a.arg for a in (*arguments.posonlyargs, *arguments.args))

    def walk(node: ast.AST, parents: tuple[ast.AST, ...], line: int) -> None:
        if isinstance(node, ast.JoinedStr | ast.Assert) or _is_docstring(node):
            return  # before Python 3.12, positions inside of f-strings are not exact
        if isinstance(node, ast.stmt):
            line = node.lineno
        context = Context(function, parents, parameters)
        for name, make in OPERATORS.items():
            for start, end, new in make(node, src, context):
                edit = Edit(name, start, end, new, line)
                found.setdefault(edit.apply(src.data), edit)
        for child in _children(node):
            walk(child, (*parents, node), line)

    for statement in function.body:
        walk(statement, (function,), statement.lineno)
    return sorted(found.values(), key=lambda edit: (edit.start, edit.end, edit.new))


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The children that determine behavior, without annotations and decorators."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
