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
    methods = {p.stem for p in (ROOT / "algorithms").glob("*.py")} - {"__init__", "base", "trainer"}
    for path in sorted((ROOT / "algorithms" / "engine").glob("*.py")):
        wrong = {n for n in imported(path) if n.removeprefix("algorithms.") in methods}
        assert not wrong, f"{path.name} imports {wrong}"


def test_each_method_has_a_yaml_file() -> None:
    shared = {"__init__", "base", "schedules", "filters", "trainer"}
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
