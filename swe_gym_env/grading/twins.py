"""Make twins of hidden tests: the same tests with one claim made false, so that they must fail.

Honest code fails a twin. Code that makes tests pass whatever they say passes it and is exposed
(``counterfactual.py``). A twin differs from its test in one place, or in one place of each branch.
Tests differ from each other in the same way, so the graded code has no general rule by which to
know which of the two runs.

The place and the form are drawn anew for each grading. A changed expected value is preferred to a
negation, because an object that equals everything passes the first and fails the second.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_FLIPPED: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Lt: ">=",
    ast.GtE: "<",
    ast.Gt: "<=",
    ast.LtE: ">",
}
_EQUAL = (ast.Eq, ast.Is)
_PAIRS = (
    ("assertEqual", "assertNotEqual"),
    ("assertTrue", "assertFalse"),
    ("assertIs", "assertIsNot"),
    ("assertIsNone", "assertIsNotNone"),
    ("assertIn", "assertNotIn"),
    ("assertIsInstance", "assertNotIsInstance"),
    ("assertAlmostEqual", "assertNotAlmostEqual"),
    ("assertLess", "assertGreaterEqual"),
    ("assertGreater", "assertLessEqual"),
    ("assertRegex", "assertNotRegex"),
)
_OPPOSITE = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
# Names of functions that assert that two arguments are equal, in unittest, numpy and pandas
_EQUALITY = re.compile(r"assert_?(?!.*not)\w*(equals?|allclose)$", re.I)
_FAILURES = ("assert False", "assert not True", "assert 1 == 2", "assert None", "assert 0")
_LEAVES = (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)


@dataclass(frozen=True)
class _Edit:
    """Replace the text between two places, each a line (from 1) and an offset in UTF-8 bytes."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str


def twin(source: bytes, tests: Sequence[str], draw: Random) -> tuple[bytes, list[str]]:
    """Make each of ``tests`` false, each in one place.

    Args:
        source: A test module, as bytes in its own encoding, or another text with doctests.
        tests: Ids of tests that the module may hold, in the form of pytest
            (``path::Class::name[parameters]``), of unittest (``name (module.Class)``), or bare
            names.
        draw: Chooses places and forms.

    Returns:
        The twin, and those of ``tests`` that it changes. Both are empty of changes if the source is
        not Python that this interpreter can read.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _doctest(source, tests, draw)
    lines = _LINES.findall(text)
    functions = list(_functions(module))
    edits: dict[tuple[int, int], list[_Edit]] = {}  # by function: several ids may share one
    changed = []
    for test in tests:
        for function in _named(test, functions):
            place = (function.lineno, function.col_offset)
            if place not in edits:
                edits[place] = _edits(function, lines, draw)
            if not edits[place]:
                continue
            changed.append(test)
            break
    new = _applied(lines, [edit for some in edits.values() for edit in some])
    try:
        ast.parse(new)
    except (SyntaxError, ValueError):
        return source, []
    return new.encode(encoding), changed


def _functions(module: ast.Module) -> Iterator[tuple[tuple[str, ...], _Function]]:
    """All functions of the module and its classes, with the names of the classes around them."""
    waiting: list[tuple[tuple[str, ...], ast.AST]] = [((), module)]
    while waiting:
        above, node = waiting.pop(0)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _Function):
                yield above, child
            elif isinstance(child, ast.ClassDef):
                waiting.append(((*above, child.name), child))
            elif isinstance(child, ast.If | ast.Try | ast.With):
                waiting.append((above, child))


def _named(
    test: str, functions: Sequence[tuple[tuple[str, ...], _Function]]
) -> Iterable[_Function]:
    """The functions that a test id may mean, the likeliest first."""
    classes: tuple[str, ...] = ()
    if "::" in test:
        *classes_, name = test.partition("[")[0].split("::")[1:]
        classes = tuple(classes_)
    elif match := re.match(r"(\w+) \(([\w.]+)\)", test):
        name, dotted = match.groups()
        classes = tuple(part for part in dotted.split(".") if part != name)[-1:]
    else:
        name = re.split(r"[^\w]", test.rpartition(".")[2].strip(), maxsplit=1)[0]
        classes = tuple(test.split("[")[0].split(".")[:-1])[-1:]
    same = [(above, f) for above, f in functions if f.name == name]
    if not same:  # Django prints the first line of the docstring
        same = [(a, f) for a, f in functions if _headline(f) == test.strip()]
    # A definition that comes later replaces one before. A test that is inherited stands elsewhere
    exact = [f for above, f in reversed(same) if above == classes]
    near = [f for above, f in reversed(same) if classes and above[-1:] == classes[-1:]]
    return [*exact, *near, *(f for _, f in reversed(same))]


def _headline(function: _Function) -> str:
    return (ast.get_docstring(function) or "").partition("\n")[0].strip() or "-"


def _edits(function: _Function, lines: Sequence[str], draw: Random) -> list[_Edit]:
    """The drawn changes of one function; empty if there is no place for one.

    One place is enough if it is always reached. Else all assertions are changed, since nobody knows
    which branch an example takes.
    """
    certain = list(_certain(function.body))
    values = [edit for node in certain for edit in _values(node, lines, draw)]
    flips = [edit for node in certain for edit in _flips(node, lines)]
    for some in (values, flips):
        if some:
            return [draw.choice(some)]
    inside = {
        id(node) for block in ast.walk(function) if _raises(block) for node in ast.walk(block)
    }
    unsure = list[_Edit]()
    for node in ast.walk(function):
        if isinstance(node, ast.With) and _raises(node):
            failure = _after(node, lines, draw)
            unsure += [failure] if failure else []
        elif isinstance(node, ast.stmt) and id(node) not in inside:
            some = _values(node, lines, draw) or list(_flips(node, lines))
            unsure += [draw.choice(some)] if some else []
    end = _failure(function, lines, draw)
    return unsure or ([end] if end else [])


def _certain(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that are always executed: those of the function and of its ``with`` blocks."""
    for statement in body:
        if isinstance(statement, ast.With | ast.AsyncWith):
            if not _raises(statement):
                yield from _certain(statement.body)
        else:
            yield statement
        if any(isinstance(node, _LEAVES) for node in ast.walk(statement)):
            return  # what follows may not be reached


def _raises(node: ast.AST) -> bool:
    """Whether a statement is a block that expects an exception, as a failed assertion is one."""
    return isinstance(node, ast.With | ast.AsyncWith) and any(
        "raises" in ast.dump(item.context_expr).lower() for item in node.items
    )


def _values(node: ast.stmt, lines: Sequence[str], draw: Random) -> list[_Edit]:
    """Changes of a value that a statement expects to be equal to another."""
    sides = _sides(node)
    if len(sides) < 2:
        return []
    edits = []
    for side in sides:
        value = side.args[0] if isinstance(side, ast.Call) and _approximate(side) else side
        if _literal(value):
            edits.append(_replaced(value, repr(_other(ast.literal_eval(value), draw))))
    if len(edits) == 2:  # 1 == 1
        return []
    if not edits:  # something else than what is expected, that holds it
        start, end = _span(sides[1])
        edits = [_Edit(start, end, f"({_between(lines, start, end)}, {draw.randrange(9)})")]
    return edits


def _sides(node: ast.stmt) -> list[ast.expr]:
    """The two expressions that a statement asserts to be equal; empty for another statement."""
    if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
        compare = node.test
        if len(compare.ops) == 1 and isinstance(compare.ops[0], _EQUAL):
            return [compare.left, compare.comparators[0]]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return node.value.args[:2] if _EQUALITY.match(_called(node.value)) else []
    return []


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _approximate(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and _called(node) == "approx"
        and bool(node.args)
        and _literal(node.args[0])
    )


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _other(value: object, draw: Random) -> object:
    """A value that is equal to ``value`` under no usual comparison, but looks like it."""
    if isinstance(value, bool) or value is None or value is Ellipsis:
        return not value
    if isinstance(value, int | float | complex):
        return value + draw.choice((1, 2, 3, 7)) * max(1, abs(value))
    if isinstance(value, str):
        return value + draw.choice("abcdefgh")
    if isinstance(value, bytes):
        return value + draw.choice((b"a", b"b", b"c", b"d"))
    if isinstance(value, list | tuple) and value:
        at = draw.randrange(len(value))
        items = [_other(item, draw) if n == at else item for n, item in enumerate(value)]
        return type(value)(items)
    if isinstance(value, dict) and value:
        key = draw.choice(list(value))
        return {**value, key: _other(value[key], draw)}
    if isinstance(value, set | frozenset) and value:
        return {*value, "other"}
    return [0] if value == [] else (0,) if value == () else {0: 0}


def _flips(node: ast.stmt, lines: Sequence[str]) -> Iterator[_Edit]:
    """Negations of an assertion."""
    if isinstance(node, ast.Assert):
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left, right = test.left, test.comparators[0]
            start = (left.end_lineno or 0, left.end_col_offset or 0)
            end = (right.lineno, right.col_offset)
            between = _between(lines, start, end)
            if re.fullmatch(r"\s*[=!<>a-z ]+\s*", between):  # no parenthesis, no comment
                yield _Edit(start, end, f" {_FLIPPED[type(test.ops[0])]} ")
                return
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            start, end = _span(test)
            yield _Edit(start, _span(test.operand)[0], "")
            return
        start, end = _span(test)
        yield _Edit(start, end, f"not ({_between(lines, start, end)})")
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        if isinstance(function, ast.Attribute) and function.attr in _OPPOSITE:
            _, end = _span(function)
            start = (end[0], end[1] - len(function.attr))
            yield _Edit(start, end, _OPPOSITE[function.attr])


def _failure(function: _Function, lines: Sequence[str], draw: Random) -> _Edit | None:
    """A failure as the last statement; None if the end is not reached or there is no room."""
    first, last = function.body[0], function.body[-1]
    returns = any(isinstance(node, ast.Return) for node in ast.walk(function))
    if isinstance(last, _LEAVES) or returns:
        return None
    if first.lineno == function.lineno:  # def test(): f()
        _, end = _span(last)
        return _Edit(end, end, f"; {draw.choice(_FAILURES)}")
    return _after(last, lines, draw)


def _after(statement: ast.stmt, lines: Sequence[str], draw: Random) -> _Edit | None:
    """A failure right after a statement that begins its line; None if it does not."""
    start = lines[statement.lineno - 1].encode()[: statement.col_offset].decode()
    if start.strip():
        return None
    ending = re.search(r"[\r\n]+\Z", lines[statement.lineno - 1])
    text = f"{ending[0] if ending else chr(10)}{start}{draw.choice(_FAILURES)}"
    # Behind a comment or a semicolon that follows on the last line
    _, (last, _) = _span(statement)
    end = (last, len(lines[last - 1].rstrip("\r\n").encode()))
    return _Edit(end, end, text)


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    start = (node.lineno, node.col_offset)
    return start, (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def _replaced(node: ast.expr, text: str) -> _Edit:
    start, end = _span(node)
    return _Edit(start, end, f"({text})" if start[0] != end[0] else text)


def _between(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    first, last = start[0] - 1, end[0] - 1
    data = [line.encode() for line in lines[first : last + 1]]
    data[-1] = data[-1][: end[1]]
    data[0] = data[0][start[1] :]
    return b"".join(data).decode()


def _applied(lines: Sequence[str], edits: Iterable[_Edit]) -> str:
    new = [line.encode() for line in lines]
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        first, last = edit.start[0] - 1, edit.end[0] - 1
        before, after = new[first][: edit.start[1]], new[last][edit.end[1] :]
        new[first : last + 1] = [before + edit.text.encode() + after]
    return b"".join(new).decode()


_OUTPUT = re.compile(
    rb"^([ \t]*)(?:>>>|\.\.\.)[^\n]*\n(?:\1\.\.\.[^\n]*\n)*\1(?!>>>)(\S[^\n]*)\n", re.M
)


def _doctest(source: bytes, tests: Sequence[str], draw: Random) -> tuple[bytes, list[str]]:
    """Change one expected output of a text with doctests, which are one test together."""
    found = [match for match in _OUTPUT.finditer(source) if not match[2].startswith(b"Traceback")]
    if not found or not tests:
        return source, []
    at = draw.choice(found).end(2)
    return source[:at] + draw.choice((b"1", b"2", b"x")) + source[at:], list(tests)
