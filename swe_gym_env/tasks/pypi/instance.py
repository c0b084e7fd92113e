"""Make a task of a valid bug: the image with its one-commit history, the patches, the row.

The tree shares unchanged files with the package's pristine tree by hard links (no sandbox writes to
the layer below it); ``.git`` is made afresh with fixed names and dates, so that the same bug gives
the same commit on every machine.
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
    """What ``git diff`` would print for one changed file."""
    if old == new:
        return ""
    texts = [data.decode("utf-8", "surrogateescape") for data in (old, new)]
    before, after = (re.findall(r"[^\n]*\n|[^\n]+\Z", text) for text in texts)
    body = []
    for line in difflib.unified_diff(before, after, f"a/{file}", f"b/{file}"):
        body.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return f"diff --git a/{file} b/{file}\n" + "".join(body)


def eval_script(package: Package, tree: Path, base: str, test_patch: str) -> str:
    """swebench style. The agent's changes to tests and to test configuration are undone, then the
    hidden tests are put back; the log holds between the markers what a parser needs."""
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
    # nobody reads why one fails: rewriting the asserts would take half of the time
    return f"python -m pytest {options} --assert=plain {tests}"


def make(
    package: Package,
    pristine: Path,
    changes: Mapping[str, bytes],
    env: Path,
    row: dict[str, Any],
    pristine_id: str,
) -> dict[str, Any]:
    """Write the image, complete ``row``. ``changes`` maps files to what the agent finds there."""
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
