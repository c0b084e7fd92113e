"""Rebuild the repository of a SWE-bench row from a release on PyPI, for use without Docker.

The release contains the fix and the hidden tests, and both are removed. The result is the release
without this one fix. It is not the row's base_commit, because it contains other fixes that were
made in between. ``source`` and ``metadata`` of such tasks say so.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_gym_env import paths
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.tasks import trees
from swe_gym_env.tasks.pypi.fetch import locked
from swe_gym_env.tasks.swebench import releases
from swe_gym_env.tasks.swebench.environment import Environment, environment
from swe_gym_env.tasks.swebench.patches import directives
from swe_gym_env.tasks.swebench.releases import Fit
from swe_gym_env.tasks.swebench.script import eval_script
from swe_gym_env.tasks.swebench.specs import Spec, spec

NOTE = "the tree is release {release} without the fix, not base_commit: later changes are in it"


class CannotRebuildError(SetupError):
    """This row cannot be rebuilt, for the reason in the message; others may be."""

    def __init__(self, instance_id: str, reason: str) -> None:
        super().__init__(f"{instance_id} cannot be rebuilt: {reason}")
        self.reason = reason


def rebuild(row: Mapping[str, Any], release: str = "") -> dict[str, Any]:
    """Rebuild one row.

    Args:
        row: The row.
        release: ``NAME==VERSION`` of a release that is known to contain the fix. Without it the
            release is searched.

    Returns:
        The row with the columns of swebench 5. Its image is in the local store.

    Raises:
        CannotRebuildError: The row cannot be rebuilt; the message says why.
        SetupError: PyPI cannot be reached.
    """
    facts = spec(row["repo"], row["version"])
    found = find(row, facts, release)
    env = environment(facts, releases.pristine(found.release), found.release.uploaded)
    return _complete(row, facts, found, env, _image(row, facts, found, env))


def find(row: Mapping[str, Any], facts: Spec, release: str = "") -> Fit:
    assert facts.release is not None
    if why := facts.release.get("why_not"):
        raise CannotRebuildError(row["instance_id"], why)
    known = releases.releases(facts.release["name"])
    note = paths.home() / "tasks" / "swebench" / "found" / row["instance_id"]
    release = release or (note.read_text() if note.exists() else "")
    if release:
        named = [one for one in known if str(one) == release]
        found = releases.fit(row, named[0]) if named else f"PyPI has no {release}"
    else:
        found = releases.first_with_fix(row, known)
    if isinstance(found, str):
        raise CannotRebuildError(row["instance_id"], found)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(found.release))
    return found


@dataclass(frozen=True)
class Repository:
    """A rebuilt repository.

    Attributes:
        image: Name of its image in the local store.
        base_commit: The commit at which the agent begins.
        gold: The patch that restores the fix.
        tests: The patch that restores the hidden tests.
    """

    image: str
    base_commit: str
    gold: str
    tests: str


def _image(row: Mapping[str, Any], facts: Spec, found: Fit, env: Environment) -> Repository:
    assert facts.release is not None
    name = f"swebench-sdist-{row['instance_id']}".lower()
    whole = releases.pristine(found.release)
    aside = images.path_of(f".{name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    tree, scratch = aside / "tree", aside / "scratch"
    shutil.copytree(whole, tree, copy_function=os.link, symlinks=True)
    releases.reverse(tree, *found.tests, *found.gold)
    base = trees.commit(tree)
    gold, tests = (
        trees.difference(tree, whole, [change.new or change.old for change in part], scratch)
        for part in (found.gold, found.tests)
    )
    if trees.patched_id(tree, gold + tests, scratch) != _whole_id(whole):
        shutil.rmtree(aside)
        raise CannotRebuildError(row["instance_id"], "its patches do not give the release back")
    _add_bytecode(
        tree, _bytecode(whole, env), {change.new for change in (*found.gold, *found.tests)}
    )
    mount = f"{{home}}/{env.folder.relative_to(paths.home())}"
    variables = trees.sandbox_env(facts.release.get("path", "."))
    images.save(aside.name, images.Image(mounts={"/opt/env": mount}, env=variables))
    trees.publish(aside, name)
    return Repository(name, base, gold, tests)


def _bytecode(whole: Path, env: Environment) -> Path:
    """A copy of a release's tree with compiled modules.

    Commands in a sandbox write no bytecode, and compiling in each run would take longer than most
    tests. Therefore the image contains it.
    """
    folder = whole.with_name(f".{whole.name}.python{env.python}")
    with locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        aside = folder.with_name(f"{folder.name}-{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(whole, aside, copy_function=os.link, symlinks=True)
        packages = {path.parent for path in aside.glob("*/__init__.py")} | {*aside.glob("src")}
        for package in packages:
            place = f"/testbed/{package.relative_to(aside)}"
            python = str(env.folder / "bin" / "python")
            subprocess.run([python, "-m", "compileall", "-q", "-d", place, package], check=False)
        aside.rename(folder)
    return folder


def _add_bytecode(tree: Path, compiled: Path, changed: Collection[str]) -> None:
    """Add bytecode to the tree, but not that of changed files: it contains the fix."""
    for path in compiled.rglob("__pycache__/*.pyc"):
        relative = path.relative_to(compiled)
        source = relative.parent.parent / f"{relative.name.split('.')[0]}.py"
        if str(source) not in changed:
            (tree / relative).parent.mkdir(exist_ok=True)
            os.link(path, tree / relative)
    (tree / ".git" / "info" / "exclude").write_text("__pycache__/\n")


def _whole_id(tree: Path) -> str:
    note = tree.with_name(f".{tree.name}.id")
    with locked(note.with_suffix(".id-lock")):
        if not note.exists():
            note.write_text(trees.tree_id(tree, tree.with_name(f".{tree.name}.scratch")))
    return note.read_text()


def _complete(
    row: Mapping[str, Any], facts: Spec, found: Fit, env: Environment, made: Repository
) -> dict[str, Any]:
    assert facts.release is not None
    command = shlex.join(directives(row["repo"], made.tests))
    return {
        **row,
        "base_commit": made.base_commit,
        "image": made.image,
        "patch": made.gold,
        "test_patch": made.tests,
        "eval_script": eval_script(
            made.base_commit, made.tests, f"{facts.release['test']} {command}"
        ),
        "log_parser": facts.parser,
        "eval_type": "pass_and_fail",
        "metadata": {
            "version": row["version"],
            "build": "sdist",
            "release": str(found.release),
            "note": NOTE.format(release=found.release),
            "python": env.python,
            "packages_as_of": env.date.isoformat(),
            "left_out": list(found.left_out),
            "upstream_commit": row["base_commit"],
        },
    }
