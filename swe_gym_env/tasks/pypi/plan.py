"""Decide which bugs are tried, and in which order: a pure function of the sources and of a seed.

The candidates of each function are ordered by a weighted draw. Then the functions take turns, so
that a short prefix of the list already covers many functions and operators.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.edits import Edit, Source
from swe_gym_env.tasks.pypi.operators import LAST, WEIGHTS
from swe_gym_env.tasks.pypi.walk import edits

MAX_LINES = 40
MIN_LINES = 3
TRIES_PER_FUNCTION = 10
LATE = 3  # by so many places the operators in LAST are moved back


@dataclass(frozen=True)
class Function:
    """A function or method.

    Attributes:
        file: Its file, relative to the tree.
        name: Qualified name.
        line_start: First line, counted from 1.
        line_end: Last line, included.
        shape: Its statements as normalized text, for the check of near-duplicates (``shape``).
        decorators: Lines of its decorators; a traced run sees the function begin there.
    """

    file: str
    name: str
    line_start: int
    line_end: int
    shape: str
    decorators: tuple[int, ...] = ()

    @property
    def lines(self) -> int:
        return self.line_end - self.line_start + 1


@dataclass(frozen=True)
class Candidate:
    """One bug that may become a task."""

    id: str
    package: str
    function: Function
    edit: Edit
    split: str

    @property
    def operator(self) -> str:
        return self.edit.operator

    @property
    def parts(self) -> tuple[Candidate, ...]:
        return (self,)

    @property
    def place(self) -> tuple[str, str, int]:
        return self.function.file, self.function.name, self.function.line_start


@dataclass(frozen=True)
class Group:
    """Several bugs of one package and split, in different functions, that make one task."""

    parts: tuple[Candidate, ...]

    @property
    def id(self) -> str:
        text = " ".join(sorted(part.id for part in self.parts))
        return f"{self.parts[0].package}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def split(self) -> str:
        return self.parts[0].split

    @property
    def operator(self) -> str:
        return "+".join(part.operator for part in self.parts)


def buggy(pristine: Path, parts: Sequence[Candidate]) -> dict[str, bytes]:
    """Content of the changed files with all of ``parts`` injected."""
    files = {part.function.file: b"" for part in parts}
    for file in files:
        files[file] = (pristine / file).read_bytes()
    for part in sorted(
        parts, key=lambda part: -part.edit.start
    ):  # the last one first, so that offsets stay valid
        files[part.function.file] = part.edit.apply(files[part.function.file])
    return files


def groups(line: Sequence[Candidate], size: int) -> list[Group]:
    """Groups of ``size`` bugs, in the order of ``line``; each bug is used once."""
    found: list[Group] = []
    left = list(line)
    while left:
        parts: list[Candidate] = []
        for candidate in left:
            if len(parts) < size and all(candidate.place != part.place for part in parts):
                parts.append(candidate)
        if len(parts) < size:
            break
        left = [candidate for candidate in left if candidate not in parts]
        found.append(Group(tuple(parts)))
    return found


def draw(*key: object) -> float:
    """A pseudo-random number in (0, 1) that depends only on the key."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 1) / (256**7 + 1)


def split_of(package: Package, file: str) -> str:
    if package.unseen:
        return "unseen"
    if file in package.heldout:
        return "heldout"
    if file in package.val:
        return "val"
    if package.heldout or package.val or package.sources:
        return "train"
    share = draw("split", package.name, file)  # for a package that is not in the catalog
    return "heldout" if share < 0.25 else "val" if share < 0.35 else "train"


def functions(file: str, src: Source) -> Iterator[tuple[Function, ast.FunctionDef]]:
    """The outermost functions and methods of a file, of a length worth reading."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[Function, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                first, last = child.lineno, child.end_lineno or child.lineno
                if MIN_LINES <= last - first + 1 <= MAX_LINES:
                    above = tuple(decorator.lineno for decorator in child.decorator_list)
                    found = Function(file, prefix + child.name, first, last, shape(child), above)
                    yield found, child
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.If | ast.Try):
                yield from visit(child, prefix)

    yield from visit(src.tree, "")


def shape(function: ast.FunctionDef) -> str:
    """The statements of a function as normalized text, without comments, layout and docstring.

    Names are kept: two functions with the same words in the same order look the same to a reader.
    """
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return "\n".join(ast.unparse(statement) for statement in body)


def candidates(
    package: Package, tree: Path, covered: Mapping[str, Sequence[int]], seed: int = 0
) -> list[Candidate]:
    """Every bug worth trying in a package, in the order in which they are tried.

    Args:
        package: The package.
        tree: Its source tree.
        covered: File -> lines that tests execute. A bug on another line would not fail any test.
        seed: Seed of the order.
    """
    ranked: list[tuple[int, float, Candidate]] = []
    for file in source_files(package, tree):
        lines = set(covered.get(file, ()))
        src = Source((tree / file).read_bytes())
        for function, node in functions(file, src):
            live = [edit for edit in edits(node, src) if edit.line in lines]
            keyed = sorted((-_rank(seed, package, file, edit), edit.start, edit) for edit in live)
            for place, (_, _, edit) in enumerate(keyed[:TRIES_PER_FUNCTION]):
                ident = _identity(package, file, edit)
                candidate = Candidate(ident, package.name, function, edit, split_of(package, file))
                late = LATE * (edit.operator in LAST)
                ranked.append((place + late, draw(seed, "turn", ident), candidate))
    return [candidate for _, _, candidate in sorted(ranked, key=lambda item: item[:2])]


def _identity(package: Package, file: str, edit: Edit) -> str:
    text = f"{package.name} {package.version} {file} {edit.start} {edit.end} {edit.new!r}"
    return f"{package.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _rank(seed: int, package: Package, file: str, edit: Edit) -> float:
    """Sort key of a weighted draw without replacement (Efraimidis and Spirakis)."""
    weight = WEIGHTS.get(edit.operator, 1.0)
    return draw(seed, package.name, file, edit.start, edit.end, edit.new) ** (1 / weight)


def is_test(path: Path) -> bool:
    name = path.name
    folders = {"test", "tests", "testing"} & set(path.parts[:-1])
    named = name.startswith("test") or name.endswith("_test.py")
    return named or bool(folders) or name in ("conftest.py", "setup.py")


def source_files(package: Package, tree: Path) -> list[str]:
    found: list[str] = []
    for source in package.sources:
        root = tree / source
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            file = path.relative_to(tree)
            if not is_test(file) and str(file) not in package.skip:
                found.append(str(file))
    return found
