"""The same suite once more, as an ordinary user.

The interpreter and the repository often lie in folders that only root may enter; in a mount
namespace of our own, what is needed is made reachable without touching the host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from swe_gym_env.sandbox.guest import kernel
from tests.sandbox.conftest import skip

pytestmark = [pytest.mark.sandbox, pytest.mark.e2e]

REPOSITORY = Path(__file__).parents[2]
ORDINARY = 12_345
SUITE = ["test_conformance.py", "test_isolation.py", "test_cleanup.py", "test_provider.py"]


def _make_reachable(paths: list[Path]) -> None:
    """Cover each folder that others may not enter with one that shows only what is needed."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, []).append(path)
                break
    for folder, needed in closed.items():
        trees = [(kernel.clone_tree(str(path)), path) for path in needed]
        kernel.attach(kernel.new_filesystem("tmpfs", 0, mode="755"), str(folder))
        for tree, path in trees:
            path.mkdir(parents=True, exist_ok=True)
            kernel.attach(tree, str(path))


def main(scratch: str) -> None:
    """In a private mount namespace: become somebody else and run the suite."""
    needed = {Path(p).resolve() for p in (sys.base_prefix, sys.prefix, REPOSITORY)}
    _make_reachable(sorted(needed))
    os.setgroups([])
    os.setresgid(ORDINARY, ORDINARY, ORDINARY)
    os.setresuid(ORDINARY, ORDINARY, ORDINARY)
    os.chdir(REPOSITORY)
    env = {**os.environ, "HOME": scratch, "TMPDIR": scratch, "PYTHONDONTWRITEBYTECODE": "1"}
    suite = [f"tests/sandbox/{name}" for name in SUITE]
    # an engine belongs to root, or to a group that is as good
    options = ["-m", "pytest", "-k", "not docker and not of_root", "-p", "no:cacheprovider"]
    options.append(f"--basetemp={scratch}/pytest")
    os.execve(sys.executable, [sys.executable, *options, *suite], env)


def test_suite_passes_as_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        skip("needs root to become another user; what runs here is an ordinary user already")
    with tempfile.TemporaryDirectory(prefix="swe-gym-user-") as scratch:
        os.chown(scratch, ORDINARY, ORDINARY)
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m"]
        done = subprocess.run(
            [*command, "tests.sandbox.test_other_user", scratch],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=280,
        )
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 80 and "skipped" not in done.stdout


if __name__ == "__main__":
    main(sys.argv[1])
