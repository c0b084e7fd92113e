"""Each operator: a golden before and after, by exact text."""

from __future__ import annotations

import ast

import pytest

from swe_gym_env.tasks.pypi.edits import Source
from swe_gym_env.tasks.pypi.operators import OPERATORS
from swe_gym_env.tasks.pypi.walk import edits

GOLDEN = [
    ("swapped_comparison", "if a < b:\n        pass", ["if a <= b:", "if a > b:"]),
    ("swapped_comparison", "return a not in b", ["return a in b"]),
    ("swapped_comparison", "return (a) == (b)", ["return (a) != (b)"]),
    ("swapped_arithmetic", "return a // b", ["return a * b"]),
    ("swapped_arithmetic", "a += b", ["a -= b"]),
    ("swapped_boolean", "return a and b", ["return a or b"]),
    ("negated_condition", "if a:\n        pass", ["if not a:"]),
    ("negated_condition", "while a and b:\n        pass", ["while not (a and b):"]),
    ("dropped_not", "return not a", ["return a"]),
    ("off_by_one", "return a * 2", ["return a * 3", "return a * 1"]),
    ("shifted_index", "return a[1:]", ["return a[2:]", "return a[0:]"]),
    ("wrong_constant", "return f(True)", ["return f(False)"]),
    ("wrong_constant", "return a.split('_')", ["return a.split('-')"]),
    ("swapped_arguments", "return g(1.5, x=a, *b)", []),
    ("swapped_arguments", "return g('é', c)", ["return g(c, 'é')"]),
    ("swapped_branches", "return 1.5 if c else d", ["return d if c else 1.5"]),
    ("removed_statement", "c.close()\n    return 1.5", ["    return 1.5", ""]),
    ("removed_statement", "if c:\n        raise d", ["        pass"]),
    ("wrong_return", "return c.d", ["return None"]),
    ("wrong_return", "return c, d", ["return d, c"]),
    ("wrong_variable", "return a.x", ["return b.x"]),
    ("wrong_method", "return c.lower()", ["return c.upper()"]),
    ("wrong_method", "return any(c)", ["return all(c)"]),
    ("swapped_jump", "for c in d:\n        break", ["        continue"]),
    ("dropped_call", "return sorted(c)", ["return c"]),
]


def changed(body: str, operator: str) -> list[str]:
    text = f"def f(a, b):\n    {body}\n"
    src = Source(text.encode())
    function = src.tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    found = [e.apply(src.data).decode() for e in edits(function, src) if e.operator == operator]
    return [
        next((n for n, o in zip(t.splitlines(), text.splitlines(), strict=False) if n != o), "")
        for t in found
    ]


@pytest.mark.parametrize(("operator", "body", "after"), GOLDEN)
def test_golden(operator: str, body: str, after: list[str]) -> None:
    seen = [line.strip() for line in changed(body, operator)]
    assert sorted(seen) == sorted(line.strip() for line in after)


def test_every_operator_has_a_golden() -> None:
    assert {name for name, _, _ in GOLDEN} == set(OPERATORS)


def test_edits_parse_and_stay_inside_the_function() -> None:
    text = (
        "def g(x: int = 1, *, y='a'):\n"
        '    """Doc 1."""\n'
        "    @cache(3)\n"
        "    def inner(z: 'T[1]') -> 'U[2]':\n"
        "        return f'{z + 1}'\n"
        "    assert x > 0\n"
        "    return [inner(x), y][0]\n"
        "LAST = 1\n"
    )
    src = Source(text.encode())
    function = src.tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    found = edits(function, src)
    assert found
    for edit in found:
        after = edit.apply(src.data)
        assert ast.dump(ast.parse(after)) != ast.dump(src.tree)
        assert after.endswith(b"LAST = 1\n")
        for kept in (b"def g(x: int = 1", b"Doc 1.", b"@cache(3)", b"'T[1]'", b"'U[2]'", b"x > 0"):
            assert kept in after
