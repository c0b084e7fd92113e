"""The built wheel in a clean environment holds what it needs, and plays without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy
import pytest

from swe_gym_env.tasks import jsonl
from tests.support.toy_tasks import FINISH, FIX, GOLD, real_provider, toy_task

pytestmark = [pytest.mark.sandbox, pytest.mark.e2e]

ROOT = Path(__file__).parents[1]
SCRIPT = f"""
import sys
import algorithms.schedules, swe_gym_env
from importlib.resources import files
from swe_gym_env import Rollout, SWEEnv, tasks

assert swe_gym_env.__file__.startswith(sys.prefix), swe_gym_env.__file__
assert algorithms.schedules.__file__.startswith(sys.prefix)
assert all((files(package) / "py.typed").is_file() for package in (swe_gym_env, algorithms))
assert list(files("swe_gym_env.tasks.pypi").glob("validated-*.jsonl"))
print(*tasks.names())
found = tasks.load("jsonl", path="rows.jsonl")
print(*[task.instance_id for task in found])
env = SWEEnv(found, sandbox="process")
env.reset(seed=0)
env.step({FIX!r})
print(env.step({FINISH!r})[-1]["outcome"].status)
run = Rollout(lambda s: [{FIX!r}, {FINISH!r}][len(s.turns)], sandbox="process", store="episodes")
print([episode.outcome.status for episode in run(found, repeats=2)])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, gymnasium and numpy."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = folder / "source"  # setuptools leaves a folder `build` in the one that it builds
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in files.stdout.splitlines():
        if name.startswith(("swe_gym_env/", "algorithms/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([python, *install, wheel], check=True)
    # pip works offline here: the two packages that it needs are linked, and nothing else
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    installed = Path(gymnasium.__file__).parents[1]
    for name in ("gymnasium", "numpy", "numpy.libs", "cloudpickle", "farama_notifications"):
        if (installed / name).exists():
            (site / name).symlink_to(installed / name)
    (site / "typing_extensions.py").symlink_to(installed / "typing_extensions.py")
    assert Path(numpy.__file__).parents[1] == installed
    return python


def test_wheel_plays_without_the_checkout(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_provider("process")
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    jsonl.save([replace(toy_task(tmp_path), gold_patch=GOLD)], tmp_path / "rows.jsonl")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(python), "-c", SCRIPT]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    names, found, one, several = done.stdout.splitlines() or [done.stderr] * 4
    assert "pypi" in names.split() and "swe_gym" in names.split(), done.stderr
    assert (found, one, several) == ("toy-1", "resolved", "['resolved', 'resolved']"), done.stderr
