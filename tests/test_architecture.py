"""Imports point one way: experiments -> algorithms -> swe_gym_env, and methods -> engine.

Read from the syntax trees, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Outside packages: what each of ours must not import anywhere
FORBIDDEN = {
    "swe_gym_env": {
        "algorithms",
        "experiments",
        "torch",
        "transformers",
        "accelerate",
        "peft",
        "hydra",
        "omegaconf",
    },
    "algorithms": {"experiments", "hydra", "omegaconf"},
    "experiments": set(),
}
MODULES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names of all that a module imports, relative ones resolved."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*above, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    wrong = {name for name in imported(path) if name.split(".")[0] in FORBIDDEN[package]}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_the_engine_knows_no_method() -> None:
    methods = {p.stem for p in (ROOT / "algorithms").glob("*.py")} - {
        "__init__",
        "base",
        "objective",
        "trainer",
    }
    for path in sorted((ROOT / "algorithms" / "engine").glob("*.py")):
        wrong = {n for n in imported(path) if n.removeprefix("algorithms.") in methods}
        assert not wrong, f"{path.name} imports {wrong}"


def test_each_method_has_a_yaml_file() -> None:
    shared = {"__init__", "base", "objective", "schedules", "filters", "trainer"}
    files = {p.stem for p in (ROOT / "algorithms").glob("*.py")} - shared
    assert files == {p.stem for p in (ROOT / "conf" / "algorithm").glob("*.yaml")}


def test_modules_stay_short_and_say_why_they_exist() -> None:
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path} is too long"
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_environment_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys, swe_gym_env.types, swe_gym_env.policies.base; import swe_gym_env;"
        "heavy = {'torch', 'transformers', 'libcst', 'docker', 'swebench', 'httpx'};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# The rooms of this project, from the bottom up, and which rooms each may import. Imports inside
# functions count; those for type checkers alone do not, since they are never executed.
ROOMS = {
    "foundation": "",
    "prompts": "foundation",
    "sandbox": "foundation",
    "tools": "foundation prompts sandbox",
    "actions": "foundation tools",
    "grading": "foundation sandbox",
    "tasks": "foundation grading sandbox",
    "environment": "foundation prompts sandbox tools actions grading tasks",
    "policies": "foundation prompts sandbox actions",
    "rollout": "foundation prompts sandbox actions tasks environment policies",
    "package": "foundation tasks environment policies rollout",
    "environment commands": "foundation sandbox grading tasks environment package",
    "objective": "",
    "algorithm": "foundation rollout objective",
    "engine": "foundation sandbox policies rollout objective algorithm",
    "methods": "foundation rollout objective algorithm engine",
    "serving": "foundation policies engine",
    "config": "foundation policies objective algorithm engine methods",
    "results": "foundation policies",
    "console": "foundation config results",
    "runs": "foundation sandbox tasks rollout config results",
    "analysis": "foundation prompts sandbox grading rollout config results runs",
    "pipeline": "foundation sandbox tools actions grading tasks environment policies rollout "
    "objective algorithm engine serving config results console runs",
    "probes": "foundation policies rollout engine results console runs analysis pipeline",
    "view": "foundation objective algorithm engine results console runs",
    "report": "foundation rollout results console runs analysis view",
    "plan": "foundation sandbox policies rollout objective algorithm engine config results console "
    "runs pipeline report",
    "commands": "foundation tasks rollout objective algorithm engine methods config results "
    "console runs analysis pipeline probes view report plan",
    "benchmarks": "foundation sandbox tools actions grading tasks environment policies rollout "
    "package objective algorithm engine methods config results console runs pipeline report plan "
    "commands",
}
# Which room a module is in, by the longest of these names that it begins with
PLACES = {
    f"{package}.{room}": room
    for package in FORBIDDEN
    for room in ROOMS
    if (ROOT / package / room).is_dir() or (ROOT / package / f"{room}.py").is_file()
}
PLACES |= {
    **dict.fromkeys(
        (
            f"swe_gym_env.{name}"
            for name in ("disk", "errors", "patches", "paths", "plugins", "text", "types")
        ),
        "foundation",
    ),
    "swe_gym_env": "package",
    "swe_gym_env.env": "environment",
    "swe_gym_env.spaces": "environment",
    "swe_gym_env.commands": "environment commands",
    "swe_gym_env.__main__": "environment commands",
    "algorithms": "methods",
    "algorithms.base": "algorithm",
    "algorithms.objective": "objective",
    "algorithms.trainer": "engine",
    "experiments": "commands",
}
PLACES |= {
    f"experiments.{room}.__main__": "commands"
    for room in ROOMS
    if (ROOT / "experiments" / room / "__main__.py").is_file()
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def room_of(name: str) -> str:
    while name not in PLACES:
        name = name.rpartition(".")[0]
    return PLACES[name]


def executed_imports(path: Path) -> set[str]:
    """The modules of this project, and of ``tests``, that a module imports when it is executed."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                names.add(inner if inner in NAMES else module)
    return {name for name in names if name.split(".")[0] in {*FORBIDDEN, "tests"}}


def test_rooms_import_only_what_the_table_allows() -> None:
    wrong = []
    for path in MODULES:
        room = room_of(name_of(path))
        for name in sorted(executed_imports(path)):
            if name.startswith("tests"):
                allowed = room == "benchmarks" and name.startswith("tests.support")
            else:
                allowed = room_of(name) in {room, *ROOMS[room].split()}
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} ({room}) imports {name}")
    assert not wrong, "\n".join(wrong)


def test_rooms_have_no_import_circle() -> None:
    """Each room may import only rooms that stand above it in the table, so there is no circle."""
    known: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= known, f"{room} imports upwards"
        known.add(room)
    assert set(PLACES.values()) == known


LAYOUT = {
    *("episodes.jsonl", "annotations.jsonl", "scores.jsonl", "metrics.json", "tables.json"),
    *("config.yaml", "inputs.json", "versions.json", "format.json", "tasks.json", "phases.json"),
    *("summary.json", "sweep.json", "report.html", "report.png", "episodes.html"),
}
FOLDERS = {"rounds", "evaluations", "analysis", "checkpoint"}
# The modules that may name them: the reader and writer of run folders, and the store below it
KNOWS_LAYOUT = ("experiments/runs/", "swe_gym_env/rollout/store.py")


def named_paths(tree: ast.AST) -> set[str]:
    """Names of the layout in a module, as text that is a path, or as a part of a path."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            parts = set(node.value.split("/"))
            found |= parts & LAYOUT
            if "/" in node.value and " " not in node.value:
                found |= parts & FOLDERS
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            right = node.right
            found |= {right.value} & FOLDERS if isinstance(right, ast.Constant) else set()
    return found


@pytest.mark.slow
def test_only_the_room_runs_names_the_files_of_a_run() -> None:
    for path in MODULES:
        name = str(path.relative_to(ROOT))
        if name.startswith("experiments/") and not name.startswith(KNOWS_LAYOUT):
            found = named_paths(ast.parse(path.read_text()))
            assert not found, f"{name} names {sorted(found)}: experiments/runs/layout.py has them"


@pytest.mark.slow
def test_only_the_room_results_computes_intervals() -> None:
    libraries = {"scipy", "statsmodels", "statistics"}
    readers = ("analysis", "probes", "report", "view", "runs", "pipeline", "console")
    for path in MODULES:
        if room_of(name_of(path)) in readers:
            used = {name.split(".")[0] for name in imported(path)} & libraries
            assert not used, f"{path.relative_to(ROOT)} imports {used}"
