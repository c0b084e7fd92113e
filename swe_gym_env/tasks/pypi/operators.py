"""The operators that inject bugs: each changes one place of one function by a minimal edit.

The syntax tree of ``ast`` has exact byte positions, so an edit leaves every other byte unchanged
and the gold patch is as small as the bug. An operator yields the edits that it could make at a
node. ``plan.py`` decides in which order they are tried, and the package's suite whether they are
valid.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from swe_gym_env.tasks.pypi.edits import Context, Source

Change = tuple[int, int, bytes]
Operator = Callable[[ast.AST, Source, Context], Iterator[Change]]
OPERATORS: dict[str, Operator] = {}
# Weights of the draw among the candidates of a function: higher if the code itself shows the damage
WEIGHTS = {"wrong_constant": 0.6, "wrong_variable": 0.4}
# These change one token, and the line itself suggests the fix (used in conf/tasks/pypi.yaml)
ONE_TOKEN = (
    "swapped_comparison",
    "swapped_arithmetic",
    "swapped_boolean",
    "negated_condition",
    "dropped_not",
)
LAST = ("removed_statement", "wrong_return")  # tried late: the fix can only be guessed


def operator(function: Operator) -> Operator:
    OPERATORS[function.__name__] = function
    return function


def _token(src: Source, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Change]:
    """Replace an operator's token in the gap between its operands."""
    start, stop = src.end(left), src.start(right)
    pattern = rb"\s+".join(re.escape(word).encode() for word in old.split())
    match = re.search(pattern, src.data[start:stop])
    if match is not None:
        yield start + match.start(), start + match.end(), new.encode()


_COMPARE: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}


@operator
def swapped_comparison(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        old, news = _COMPARE[type(node.ops[0])]
        for new in news:
            yield from _token(src, node.left, node.comparators[0], old, new)


_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}


@operator
def swapped_arithmetic(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str | bytes):
            return  # string formatting
        old, new = _ARITHMETIC[type(node.op)]
        yield from _token(src, node.left, node.right, old, new)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        old, new = ("+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
        yield from _token(src, node.target, node.value, old, new)


@operator
def swapped_boolean(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        yield from _token(src, node.values[0], node.values[1], old, new)


@operator
def negated_condition(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if not isinstance(node, ast.If | ast.IfExp | ast.While):
        return
    test = node.test
    if isinstance(test, ast.UnaryOp | ast.Compare):
        return  # dropped_not and swapped_comparison make more natural bugs here
    text, start, end = src.text(test), src.start(test), src.end(test)
    simple = isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
    yield start, end, b"not " + text if simple else b"not (" + text + b")"


@operator
def dropped_not(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield src.start(node), src.start(node.operand), b""


def _in_subscript(context: Context) -> bool:
    return any(isinstance(parent, ast.Subscript | ast.Slice) for parent in context.parents[-2:])


def _is_int(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


@operator
def off_by_one(node: ast.AST, src: Source, context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Constant) and _is_int(node) and not _in_subscript(context):
        text = src.text(node)
        if text.isdigit() and len(text) < 6:
            yield src.start(node), src.end(node), str(int(text) + 1).encode()
            if int(text) > 0:
                yield src.start(node), src.end(node), str(int(text) - 1).encode()


@operator
def shifted_index(node: ast.AST, src: Source, context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Constant) and _is_int(node) and _in_subscript(context):
        text = src.text(node)
        if text.isdigit() and len(text) < 6:
            yield src.start(node), src.end(node), str(int(text) + 1).encode()
            if int(text) > 0:
                yield src.start(node), src.end(node), str(int(text) - 1).encode()


_STRINGS = {"_": "-", "-": "_", " ": "", "": " ", ",": ";", ".": ",", ":": ";", "/": "-", "\n": " "}


@operator
def wrong_constant(node: ast.AST, src: Source, context: Context) -> Iterator[Change]:
    if not isinstance(node, ast.Constant) or any(
        isinstance(parent, ast.Raise | ast.Assert) for parent in context.parents
    ):
        return
    start, end, value = src.start(node), src.end(node), node.value
    if isinstance(value, bool):
        yield start, end, str(not value).encode()
    elif isinstance(value, str) and value in _STRINGS:
        text = src.text(node)
        quote = text[-1:]
        if text.startswith(quote) and not text.startswith(quote * 3):
            yield start, end, quote + _STRINGS[value].encode() + quote


@operator
def swapped_arguments(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return
    first, second = node.args[0], node.args[1]
    if any(isinstance(arg, ast.Starred | ast.GeneratorExp) for arg in (first, second)):
        return
    if src.text(first) == src.text(second):
        return
    gap = src.data[src.end(first) : src.start(second)]
    if gap.strip() == b",":
        yield src.start(first), src.end(second), src.text(second) + gap + src.text(first)


@operator
def swapped_branches(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.IfExp):
        gap = src.data[src.end(node.body) : src.start(node.orelse)]
        new = src.text(node.orelse) + gap + src.text(node.body)
        yield src.start(node.body), src.end(node.orelse), new
    elif isinstance(node, ast.If) and len(node.body) == 1 and len(node.orelse) == 1:
        body, orelse = node.body[0], node.orelse[0]
        if body.lineno == body.end_lineno and orelse.lineno == orelse.end_lineno:
            gap = src.data[src.end(body) : src.start(orelse)]
            if body.col_offset == orelse.col_offset:
                yield src.start(body), src.end(orelse), src.text(orelse) + gap + src.text(body)


def _block(node: ast.stmt, context: Context) -> list[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(context.parent, name, None)
        if isinstance(block, list) and node in block:
            return block
    return []


@operator
def removed_statement(node: ast.AST, src: Source, context: Context) -> Iterator[Change]:
    simple = ast.Assign | ast.AugAssign | ast.Return | ast.Raise | ast.Expr | ast.Continue
    if not isinstance(node, simple):
        return
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
        return
    line_start = src.line_start(node.lineno)
    alone = src.data[line_start : src.start(node)].strip() == b""
    rest = src.data[src.end(node) :].split(b"\n", 1)[0]
    if not alone or rest.strip():
        return
    if len(_block(node, context)) == 1:
        yield src.start(node), src.end(node), b"pass"
    else:
        yield line_start, min(src.end(node) + len(rest) + 1, len(src.data)), b""


@operator
def wrong_return(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Return) and node.value is not None:
        value = node.value
        if isinstance(value, ast.Tuple) and len(value.elts) == 2 and src.text(value)[:1] != b"(":
            first, second = value.elts
            if src.text(first) != src.text(second):
                new = src.text(second) + b", " + src.text(first)
                yield src.start(first), src.end(second), new
        elif not isinstance(value, ast.Constant):
            yield src.start(value), src.end(value), b"None"


@operator
def wrong_variable(node: ast.AST, src: Source, context: Context) -> Iterator[Change]:
    """Replace a parameter by its neighbor in the signature."""
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    names = [name for name in context.parameters if name not in ("self", "cls")]
    if node.id in names and len(names) > 1:
        other = names[(names.index(node.id) + 1) % len(names)]
        yield src.start(node), src.end(node), other.encode()


_NAMES = """
lower/upper append/extend startswith/endswith lstrip/rstrip strip/lstrip ljust/rjust split/rsplit
partition/rpartition find/rfind keys/values items/values min/max any/all match/search popleft/pop
update/setdefault isinstance/issubclass islice/takewhile group/groups title/upper capitalize/title
union/intersection add/discard getattr/hasattr seconds/days hour/minute minute/second year/month
month/day key/value args/kwargs
"""
_PAIRS = {old: new for old, _, new in (pair.partition("/") for pair in _NAMES.split())}
_METHODS = {new: old for old, new in _PAIRS.items()} | _PAIRS
_FUNCTIONS = {"min", "max", "any", "all"}


@operator
def wrong_method(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Attribute) and node.attr in _METHODS:
        end = src.end(node)
        yield end - len(node.attr), end, _METHODS[node.attr].encode()
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name in _FUNCTIONS:
            yield src.start(node.func), src.end(node.func), _METHODS[name].encode()


@operator
def swapped_jump(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    if isinstance(node, ast.Break | ast.Continue):
        new = b"continue" if isinstance(node, ast.Break) else b"break"
        yield src.start(node), src.end(node), new


_WRAPPERS = {"reversed", "sorted", "list", "tuple", "set", "str", "int", "iter", "abs", "len"}


@operator
def dropped_call(node: ast.AST, src: Source, _context: Context) -> Iterator[Change]:
    """``sorted(x)`` becomes ``x``."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _WRAPPERS
        and len(node.args) == 1
        and not node.keywords
        and isinstance(node.args[0], ast.Name | ast.Attribute | ast.Call | ast.Subscript)
    ):
        yield src.start(node), src.end(node), src.text(node.args[0])
