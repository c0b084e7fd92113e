"""SWE-bench without Docker: a real row rebuilt from PyPI, and the decisions on the way there."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import SandboxSpec
from swe_gym_env.tasks.swebench import interpreters, releases
from swe_gym_env.tasks.swebench.batch import validated
from swe_gym_env.tasks.swebench.environment import requirements
from swe_gym_env.tasks.swebench.patches import changes
from swe_gym_env.tasks.swebench.rebuild import CannotRebuildError, rebuild
from swe_gym_env.tasks.swebench.releases import Release, candidates
from swe_gym_env.tasks.swebench.specs import spec
from tests.support.toy_tasks import real_provider

pytestmark = pytest.mark.sandbox

ROW = "pallets__flask-5014"


@pytest.mark.slow
@pytest.mark.network
def test_row_is_rebuilt_from_pypi_and_graded_in_a_local_sandbox(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    local = real_provider("local")
    progress: list[tuple[int, int, str]] = []
    options: dict[str, Any] = {
        "path": str(shared_data / "swebench_verified.jsonl"),
        "build": "sdist",
        "instances": [ROW],
        "progress": lambda *words: progress.append(words),
    }
    (task,) = tasks.load("swebench_verified", **options)
    assert progress == [(1, 1, ROW)]
    assert task.source == "swebench_verified[sdist]"
    assert task.metadata["build"] == "sdist" and task.metadata["release"].startswith("Flask==2.3")
    assert "not base_commit" in task.metadata["note"]

    sandbox = local.create(SandboxSpec(task.image, task.workdir, task.env))
    try:
        look = "git log --oneline | wc -l; git status --short; python -c 'import flask'; "
        look += "grep -c 'may not be empty' -r src tests; find . -name 'CHANGES*'; "
        look += "find . -name 'blueprints*.pyc' -o -name 'test_blueprints*.pyc'"
        seen = sandbox.exec(look, timeout=60, cwd=task.workdir).output.decode().splitlines()
    finally:
        sandbox.close()
    assert seen[0] == "1"  # one commit
    assert all(line.endswith(":0") for line in seen[1:])  # no fix, test, note, bytecode of theirs

    gold = grade(task, task.gold_patch, local)
    assert gold.resolved, gold
    nothing = grade(task, "", local, allow_empty=True)
    assert nothing.status == "unresolved"
    assert {nothing.tests[test] for test in task.fail_to_pass} <= {"FAILED", "ABSENT"}

    monkeypatch.setattr(releases, "INDEX", "http://127.0.0.1:9")  # what was built needs no PyPI
    assert tasks.load("swebench_verified", **options) == [task]
    with pytest.raises(SetupError, match="needs PyPI"):
        tasks.load("swebench_verified", **{**options, "instances": ["sympy__sympy-12096"]})


def test_a_row_that_cannot_be_rebuilt_says_why(rows: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(CannotRebuildError, match="-12907 cannot be rebuilt: its C extensions"):
        rebuild(rows["astropy__astropy-12907"])


def test_releases_are_tried_from_the_nearest_on(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["pallets__flask-5014"]
    created = datetime.fromisoformat(row["created_at"])
    days = {"2.2.9": 5, "2.3.0": -5, "2.3.1": 9, "2.3.2": 20, "2.4.0a1": 7, "3.0.0": 6, "2.10.0": 8}
    known = [
        Release("Flask", version, created + timedelta(days=day), "", "")
        for version, day in days.items()
    ]
    assert row["version"] == "2.3"
    tried = [one.version for one in candidates(row, known)]
    assert tried == ["2.3.1", "2.3.2", "2.4.0a1", "2.10.0", "3.0.0"]
    assert (
        candidates({**row, "created_at": datetime(2100, 1, 1, tzinfo=UTC).isoformat()}, known) == []
    )


def test_only_prose_may_be_left_out_of_a_patch() -> None:
    names = {
        "CHANGES": True,
        "doc/whats-new.rst": True,
        "docs/releases/3.1.txt": True,
        "AUTHORS": True,
        "django/db/models/query.py": False,
        "tests/roots/index.rst": False,
        "setup.cfg": False,
    }
    for name, prose in names.items():
        (change,) = changes(
            f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n"
        )
        assert change.is_prose is prose, name


def test_requirements_come_from_the_release_and_the_table(tmp_path: Path) -> None:
    info = tmp_path / "sphinx" / "Sphinx.egg-info"
    info.mkdir(parents=True)
    (info / "requires.txt").write_text(
        "docutils<0.18,>=0.14\n\n[:sys_platform == 'win32']\ncolorama\n\n"
        "[lint]\nflake8\n\n[test]\nhtml5lib\n"
    )
    found = list(requirements(spec("sphinx-doc/sphinx", "4.1"), info.parent))
    assert "docutils<0.18,>=0.14" in found and "html5lib" in found and "flake8" not in found
    assert "colorama ; sys_platform == 'win32'" in found
    folder = tmp_path / "django" / "tests" / "requirements"
    folder.mkdir(parents=True)
    (folder / "py3.txt").write_text("numpy\npylibmc; sys_platform != 'win32'\n# no\n")
    assert list(requirements(spec("django/django", "3.1"), tmp_path / "django")) == ["numpy"]


def test_the_nearest_python_names_its_tests_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {3: None, 8: None, 10: None, 12: None}
    monkeypatch.setattr(interpreters, "found", lambda: here)
    wanted = ("3.6", "3.9", "3.10", "3.11", "3.13")
    assert [interpreters.nearest(one)[0] for one in wanted] == [
        "3.8",
        "3.10",
        "3.10",
        "3.12",
        "3.12",
    ]
    monkeypatch.undo()
    folder = tmp_path / "versions" / "3.11.99" / "bin"
    folder.mkdir(parents=True)
    os.symlink(Path(sys.base_prefix, "bin", "python3").resolve(), folder / "python")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    interpreters.found.cache_clear()
    try:
        minor = sys.version_info[1]
        assert interpreters.nearest(f"3.{minor}") == (f"3.{minor}", (folder / "python").resolve())
    finally:
        interpreters.found.cache_clear()


def test_what_was_validated_is_among_the_rows(rows: dict[str, dict[str, Any]]) -> None:
    known = validated()
    for name, facts in known.items():
        passed, whole = facts["f2p"].split("/")
        assert passed == whole and name in rows
    assert not any(rows[name]["repo"].startswith(("astropy", "matplotlib")) for name in known)
