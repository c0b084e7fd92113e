"""All the bugs that fit into a function: every operator is tried at every node of its body.

Apart from the operators, so that they stay a list of small cases and the order of the search, and
what it leaves alone, can be read in one place.
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
            return  # positions inside f-strings are not exact before Python 3.12
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
    """The children that hold behavior: no annotations, no decorators."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
