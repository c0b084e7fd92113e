"""A tiny repository with a bug, and tasks on it, for tests that need a real sandbox but no package.

The image is made in the test's own store; its tests run with this project's interpreter.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images, provider
from swe_gym_env.sandbox.base import Guarantee, Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.types import TaskInstance

PROVIDERS = ["process", "local"]
BUG = "def add(a, b):\n    return a - b\n"
TEST = "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
TEST_KEPT = "\n\ndef test_zero():\n    assert add(0, 0) == 0\n"
GOLD = """diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""
FIX = "```bash\nsed -i 's/a - b/a + b/' calc.py\n```"
FINISH = "```bash\nfinish\n```"
LOOK = "I look.\n```bash\ncat calc.py\n```"


def toy_task(
    home: Path,
    name: str = "toy",
    files: Mapping[str, str] = MappingProxyType({}),
    env: Mapping[str, str] = MappingProxyType({}),
) -> TaskInstance:
    """Make the image ``name`` in the store at ``home``, which must be SWE_GYM_HOME.

    ``files`` and ``env`` are added to those that every toy task has.
    """
    tree = home / "images" / name / "tree"
    tree.mkdir(parents=True)
    (tree / "calc.py").write_text(BUG)
    (tree / "test_calc.py").write_text(TEST + TEST_KEPT)
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=tree, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True
    )
    images.save(
        name,
        images.Image(
            mounts={"/opt/env": sys.prefix},
            env={"PATH": "/opt/env/bin:/usr/local/bin:/usr/bin:/bin", **env},
        ),
    )
    return TaskInstance(
        instance_id=f"{name}-1",
        repo="toy/calc",
        base_commit=head.stdout.strip(),
        image=name,
        problem_statement="add(1, 2) returns -1, not 3.",
        gold_patch="",
        test_patch="",
        fail_to_pass=("test_calc.py::test_add",),
        pass_to_pass=("test_calc.py::test_zero",),
        eval_script="cd /testbed && python -m pytest -p no:cacheprovider -rA test_calc.py",
    )


def copies(task: TaskInstance, count: int) -> list[TaskInstance]:
    return [replace(task, instance_id=f"toy-{index}") for index in range(1, count + 1)]


def real_provider(name: str) -> SandboxProvider:
    try:
        found = provider(name)
    except SetupError as error:
        pytest.skip(str(error))
    if missing := found.unavailable():
        pytest.skip(missing)
    return found


class Flaky:
    """A real provider whose sandboxes break: ``broken[n]`` says at which exec the n-th sandbox
    does."""

    name = "flaky"

    def __init__(self, inner: SandboxProvider, broken: Mapping[int, int]) -> None:
        self.inner, self.broken = inner, broken
        self.made: list[FlakySandbox] = []

    def unavailable(self) -> str | None:
        return self.inner.unavailable()

    def create(self, spec: SandboxSpec) -> Sandbox:
        sandbox = FlakySandbox(self.inner.create(spec), self.broken.get(len(self.made), 1 << 30))
        self.made.append(sandbox)
        return sandbox


class FlakySandbox:
    """A real sandbox that dies at its ``last``-th command (0: the first)."""

    def __init__(self, inner: Sandbox, last: int) -> None:
        self.inner, self.left = inner, last
        self.guarantees: Mapping[str, Guarantee] = inner.guarantees
        self.closed = False

    def exec(self, command, **options):  # type: ignore[no-untyped-def]
        from swe_gym_env.errors import SandboxError

        if self.left <= 0:
            raise SandboxError("the sandbox is gone")
        self.left -= 1
        return self.inner.exec(command, **options)

    def read(self, path: str) -> bytes:
        return self.inner.read(path)

    def write(self, path: str, data: bytes) -> None:
        self.inner.write(path, data)

    def close(self) -> None:
        self.closed = True
        self.inner.close()
