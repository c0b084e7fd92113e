"""The shape of the source tree, before and after a change.

    python -m experiments.benchmarks.structure [REVISION ...] [--arrows]

Prints one column per Git revision and one for the working tree: how many modules there are and how
long they are, which rooms (packages) import which, whether rooms import each other in a circle, and
the share of comment lines. Everything is read from the syntax trees, so nothing is executed and any
old revision can be measured. ``--arrows`` also lists the import arrows between rooms.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PACKAGES = ("swe_gym_env", "algorithms", "experiments")


@dataclass
class Tree:
    """What was counted in one revision.

    Attributes:
        lengths: Lines of each module, by its path.
        functions: Lines of each function and method.
        comments: Lines that hold a comment.
        arrows: For each room the rooms that its modules import.
        rooms: Lines of each room.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    functions: list[int] = field(default_factory=list)
    comments: int = 0
    arrows: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    rooms: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def read(root: Path) -> Tree:
    """Counts the packages below ``root``."""
    tree = Tree()
    modules = {
        path: ".".join(path.relative_to(root).with_suffix("").parts)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    names = set(modules.values())
    for path, name in modules.items():
        text = path.read_text()
        syntax = ast.parse(text)
        room = _room(name)
        tree.lengths[str(path.relative_to(root))] = len(text.splitlines())
        tree.rooms[_shelf(name)] += len(text.splitlines())
        tree.comments += _comment_lines(text)
        for node in ast.walk(syntax):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                tree.functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
        for target in _imported(syntax, name, names):
            if _room(target) != room:
                tree.arrows[room].add(_room(target))
    return tree


def _room(module: str) -> str:
    """A module's room: the package at the second level, or the module itself where it stands there.

    (``swe_gym_env.types`` is the ground floor and ``swe_gym_env.env`` is near the roof, so the
    modules beside the packages are not one room.)
    """
    return ".".join(module.removesuffix(".__init__").split(".")[:2])


def _shelf(module: str) -> str:
    """The room, where lines are summed: modules beside the packages are summed together."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def _imported(syntax: ast.Module, name: str, names: set[str]) -> Iterator[str]:
    """Our modules that a module imports, also inside functions; not for type checkers alone."""
    package = name.split(".")[:-1]
    for node in _executed(syntax):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            for known in (target, target.rpartition(".")[0]):
                if known in names or f"{known}.__init__" in names:
                    yield known if known in names else f"{known}.__init__"
                    break


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield from _executed(child)


def _comment_lines(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that reach each other (strongly connected components of two or more)."""
    reached: dict[str, set[str]] = {}
    for room in arrows:
        seen, waiting = set[str](), [room]
        while waiting:
            for target in arrows.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        reached[room] = seen
    groups = {
        tuple(
            sorted(other for other in reached if room in reached[other] and other in reached[room])
        )
        for room in reached
        if room in reached[room]
    }
    return [list(group) for group in sorted(groups)]


def checkout(revision: str) -> Path:
    """The files of a Git revision, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="structure-"))
    packed = subprocess.run(["git", "archive", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def rows(tree: Tree) -> dict[str, str]:
    """The figures of one revision, by their names in the table."""
    lengths = sorted(tree.lengths.values())
    arrows = sum(map(len, tree.arrows.values()))
    figures = {
        "modules": str(len(lengths)),
        "lines": str(sum(lengths)),
        "lines of a module: median, largest": f"{median(lengths):.0f}, {lengths[-1]}",
        "lines of a function: median, largest": f"{median(tree.functions):.0f}, "
        f"{max(tree.functions)}",
        "comment lines": f"{tree.comments / sum(lengths):.1%}",
        "packages": str(len(tree.rooms)),
        "arrows between rooms (packages, and modules beside them)": str(arrows),
        "circles between rooms": str(len(circles(tree.arrows))),
    }
    return figures | {f"lines of {room}": str(count) for room, count in sorted(tree.rooms.items())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="experiments.benchmarks.structure", description=__doc__)
    parser.add_argument("revisions", nargs="*", help="Git revisions to show before the files here")
    parser.add_argument("--arrows", action="store_true", help="list the arrows of the files here")
    args = parser.parse_args()
    trees = {revision: read(checkout(revision)) for revision in args.revisions}
    trees["here"] = read(Path(__file__).resolve().parents[2])
    columns = {name: rows(tree) for name, tree in trees.items()}
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    print("| |", " | ".join(columns), "|\n|---|" + "---|" * len(columns))
    for key in keys:
        print(f"| {key} |", " | ".join(column.get(key, "") for column in columns.values()), "|")
    for name, tree in trees.items():
        for group in circles(tree.arrows):
            print(f"\nCircle in {name}: {', '.join(group)}")
    if args.arrows:
        for room, targets in sorted(trees["here"].arrows.items()):
            print(f"{room} -> {', '.join(sorted(targets))}")


if __name__ == "__main__":
    main()
