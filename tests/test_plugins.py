"""Entry points of other packages: what they add is found, and what is wrong with them is named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from swe_gym_env import actions, plugins, sandbox, tasks
from swe_gym_env.commands import main
from swe_gym_env.errors import SetupError
from swe_gym_env.tasks import jsonl
from tests.support.toy_tasks import FINISH, FIX, real_provider, toy_task

pytestmark = pytest.mark.sandbox

TASKS = """
from swe_gym_env.tasks import jsonl
from swe_gym_env.types import TaskInstance

HUB = "example/rows"
BUILT = True

def load(path: str, split: str = "all", limit: int | None = None) -> list[TaskInstance]:
    return jsonl.load(path, split=split, limit=limit)
"""
SANDBOX = """
from swe_gym_env.sandbox import provider

def make():
    made = provider("process")
    made.name = "sample"
    return made
"""
FORMAT = """
from swe_gym_env.actions.bash_block import BashBlock

class Loud(BashBlock):
    name = "loud"
"""
POINTS = {
    "tasks": {"sample": "sample.tasks", "broken": "sample.missing", "empty": "sample.sandbox"},
    "sandboxes": {"sample": "sample.sandbox:make", "bad": "sample.sandbox:nothing"},
    "action_formats": {"loud": "sample.formats:Loud", "object": "builtins:object"},
}


def install(
    site: Path, name: str, points: Mapping[str, Mapping[str, str]], files: Mapping[str, str]
) -> None:
    """A package as pip leaves it in ``site``."""
    info = site / f"{name}-1.0.dist-info"
    for path, text in {f"{name}/__init__.py": "", **files}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, values in points.items():
        lines += [f"[swe_gym_env.{group}]", *(f"{key} = {value}" for key, value in values.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"sample/tasks.py": TASKS, "sample/sandbox.py": SANDBOX, "sample/formats.py": FORMAT}
    site = tmp_path / "site"
    install(site, "sample", POINTS, files)
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    jsonl.save([toy_task(tmp_path)], tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


def test_plugins_play_an_episode_together(site: Path, rows: Path) -> None:
    from swe_gym_env import SWEEnv

    real_provider("process")
    assert {"pypi", "sample", "broken"} <= set(tasks.names())
    assert (tasks.is_built("sample"), tasks.hub("sample")) == (True, "example/rows")
    found = tasks.load("sample", path=str(rows))
    env = SWEEnv(found, sandbox="sample", action_format="loud", tools=["bash", "finish"])
    env.reset()
    env.step(FIX)
    assert env.step(FINISH)[-1]["outcome"].resolved
    assert (env.provider.name, env.form.name) == ("sample", "loud")


def test_options_of_a_plugin_are_checked(site: Path) -> None:
    with pytest.raises(SetupError, match="'sample' has no option color: there are path, split"):
        tasks.load("sample", color=1)
    with pytest.raises(SetupError, match="limit='x' is not a whole number"):
        tasks.load("sample", path="rows", limit="x")


def test_a_command_takes_a_plugin(
    site: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", "sample", "-o", f"path={rows}", "--sandbox", "sample", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 1  # the toy task has no gold patch
    assert "gold_fails" in capsys.readouterr().out
    assert main(["validate", "nothing"]) == 1
    assert "no task source 'nothing'" in (error := capsys.readouterr().err) and "sample" in error


def test_a_broken_plugin_is_named_and_breaks_no_other(site: Path, rows: Path) -> None:
    named = r"'{}' of package sample 1\.0 \({}\): .*{}"
    with pytest.raises(SetupError, match=r"'broken'.*'sample\.missing'"):
        tasks.load("broken")
    with pytest.raises(SetupError, match=named.format("empty", "sample.sandbox", "no function")):
        tasks.load("empty")
    with pytest.raises(SetupError, match=r"'bad'.*AttributeError"):
        sandbox.provider("bad")
    with pytest.raises(SetupError, match=named.format("object", "builtins:object", "lacks name")):
        actions.action_format("object")
    assert len(tasks.load("sample", path=str(rows))) == 1
    for unknown, get in {
        "x": tasks.load,
        "y": sandbox.provider,
        "z": actions.action_format,
    }.items():
        with pytest.raises(SetupError, match=f"'{unknown}'; there are: .*(sample|loud)"):
            get(unknown)


def test_a_built_in_name_cannot_be_replaced(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "thief", {"tasks": {"jsonl": "thief"}, "sandboxes": {"auto": "thief"}}, {})
    plugins._entry_points.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert tasks._family("jsonl") is jsonl and tasks.names().count("jsonl") == 1
        sandbox.PLUGINS.names()
    assert "package thief 1.0 registers the task family 'jsonl'" in caplog.text
    assert "cannot be replaced" in caplog.text and "sandbox 'auto'" in caplog.text


def test_a_name_of_two_packages_is_refused(site: Path) -> None:
    install(site, "second", {"tasks": {"sample": "second"}}, {})
    plugins._entry_points.cache_clear()
    with pytest.raises(SetupError, match=r"package s\w+ 1\.0 and package s\w+ 1\.0: uninstall"):
        tasks.load("sample")
