"""Make the task of a valid bug: the image with a history of one commit, the patches, and the row.

The tree shares unchanged files with the original tree of the package by hard links, which is safe
because no sandbox writes to them. ``.git`` is made with fixed names and dates, so that the same bug
has the same commit on every machine.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env import paths
from swe_gym_env.errors import SWEGymError
from swe_gym_env.sandbox import images
from swe_gym_env.tasks import trees
from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.fetch import CONFIG, hidden_on_host
from swe_gym_env.tasks.pypi.plan import is_test

SHADOWS = ("sitecustomize.py", "usercustomize.py", "pytest.py", "_pytest", "pluggy", "unittest")


def patch(file: str, old: bytes, new: bytes) -> str:
    """The diff of one changed file, as ``git diff`` prints it."""
    if old == new:
        return ""
    texts = [data.decode("utf-8", "surrogateescape") for data in (old, new)]
    before, after = (re.findall(r"[^\n]*\n|[^\n]+\Z", text) for text in texts)
    body = []
    for line in difflib.unified_diff(before, after, f"a/{file}", f"b/{file}"):
        body.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return f"diff --git a/{file} b/{file}\n" + "".join(body)


def eval_script(package: Package, tree: Path, base: str, test_patch: str) -> str:
    """The eval script in the style of swebench.

    It undoes the agent's changes of tests and of test configuration, restores the hidden tests, and
    runs all tests between the two markers.
    """
    tests = sorted(
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if path.is_file() and ".git" not in path.parts and _guarded(path.relative_to(tree))
    )
    folders = sorted({t for t in package.tests if (tree / t).is_dir() and is_test(Path(t) / "x")})
    names = [f":(glob)**/{name}" for name in ("conftest.py", *CONFIG)]
    names += [f":(glob){name}{tail}" for name in SHADOWS for tail in ("", "/**")]
    added = " ".join(shlex.quote(name) for name in [*folders, *names])
    restored = " ".join(shlex.quote(test) for test in tests)
    return f"""cd /testbed || exit 1
export PYTHONDONTWRITEBYTECODE=1
find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {{}} +
git ls-files -oz -- {added} | xargs -0r rm -rf --
git checkout -q {base} -- {restored} || echo '>>>>> Reset Failed'
git apply - <<'EOF_TEST_PATCH' || echo '>>>>> Reset Failed'
{test_patch}EOF_TEST_PATCH
echo '>>>>> Start Test Output'
{test_command(package)} </dev/null 2>&1
echo ">>>>> Exit $?"
echo '>>>>> End Test Output'
"""


def _guarded(file: Path) -> bool:
    return is_test(file) or file.name in CONFIG


def test_command(package: Package) -> str:
    tests = " ".join(shlex.quote(test) for test in package.tests)
    options = "-rA --tb=no -p no:cacheprovider -o addopts= -W ignore"
    # Rewriting asserts would take half of the time, and nobody reads the messages
    return f"python -m pytest {options} --assert=plain {tests}"


def make(
    package: Package,
    pristine: Path,
    changes: Mapping[str, bytes],
    env: Path,
    row: dict[str, Any],
    pristine_id: str,
) -> dict[str, Any]:
    """Write the image and complete the row.

    Args:
        package: The package.
        pristine: Its original tree.
        changes: File -> its content in the agent's tree.
        env: The environment of its tests.
        row: The row so far.
        tree_id: git's name of the original tree, which the gold patch must restore.
    """
    name = f"pypi-{row['metadata']['candidate']}"
    aside = images.path_of(f".{name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    tree, scratch = aside / "tree", aside / "scratch"
    shutil.copytree(pristine, tree, copy_function=os.link)
    gold, tests = "", ""
    for file, data in sorted(changes.items()):
        original = (pristine / file).read_bytes()
        change = patch(file, data, original)
        gold, tests = (gold, tests + change) if is_test(Path(file)) else (gold + change, tests)
        mode = (tree / file).stat().st_mode
        (tree / file).unlink()
        (tree / file).write_bytes(data)
        (tree / file).chmod(mode)
    base = trees.commit(tree)
    if trees.patched_id(tree, gold + tests, scratch) != pristine_id:
        raise SWEGymError(f"{name}: the patches do not give back the original tree")
    images.save(aside.name, _image(package, env))
    final = trees.publish(aside, name)
    return {
        **row,
        "base_commit": base,
        "image": name,
        "patch": gold,
        "test_patch": tests,
        "eval_script": eval_script(package, final / "tree", base, tests),
    }


def _image(package: Package, env: Path) -> images.Image:
    relative = env.relative_to(paths.home())
    return images.Image(
        mounts={"/opt/env": f"{{home}}/{relative}"},
        masks=hidden_on_host(),
        env=trees.sandbox_env(package.path),
    )


def exists(row: Mapping[str, Any]) -> bool:
    return (images.path_of(row["image"]) / "image.json").is_file()


def dumps(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=True)
