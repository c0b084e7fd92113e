"""Wrong docs are worse than none: their links, paths, options and examples are checked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

import algorithms
from algorithms.base import Round
from experiments.config.algorithms import build_algorithm
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, Turn
from tests.support.toy_tasks import real_provider, toy_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("swe_gym_env/", "algorithms/", "conf/", "experiments/", "tests/", "docs/", "examples/")
ids = [page.name for page in PAGES]


def code(page: str, language: str = "python") -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```\n", (ROOT / page).read_text(), re.S)
    return block


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for path in re.findall(r"`([\w./-]+)`", text):
        if path.startswith(OURS) and "NAME" not in path:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_choices_named_exist(page: Path) -> None:
    for line in re.findall(r"experiments\.run (.*)", page.read_text()):
        for group, names in re.findall(r"(?<![.\w])(\w+)=([\w,/]+)", line):
            for name in names.split(",") if (ROOT / "conf" / group).is_dir() else ():
                option = ROOT / "conf" / group / f"{name}.yaml"
                assert option.exists() or name == "disagreement", f"{group}={name}"


def test_the_example_algorithm_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that no paper has, in under 40 lines, found and built as a run would."""
    page = "docs/add-an-algorithm.md"
    file, settings = code(page), code(page, "yaml")
    assert len(file.splitlines()) + len(settings.splitlines()) < 40
    cfg = OmegaConf.create(settings)
    module = ModuleType(cfg._target_.rpartition(".")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(algorithms, cfg.name, module, raising=False)
    exec(file, module.__dict__)
    turns = (Turn("a bug", "student", "look"), Turn("code", "student", "wrong"))
    episode = Episode("e", "task", 0, 1, 0, "", turns, Outcome("unresolved"), "finished")
    labels = [Annotation("e", 0, "expert", "look"), Annotation("e", 1, "expert", "right")]
    algorithm = build_algorithm(cfg)
    assert algorithm.collect(1).mixer.beta == 0.5 and algorithm.extra_tasks(1, [episode]) == 0
    (example,) = algorithm.examples([Round(1, [episode], labels)])
    assert [(target.turn, target.text) for target in example.targets] == [(1, "right")]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskInstance:
    """The one task that the examples of the pages find."""
    from swe_gym_env import tasks

    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    real_provider("local")
    task = toy_task(tmp_path)
    monkeypatch.setattr(tasks, "load", lambda *_, **__: [task])
    return task


@pytest.mark.sandbox
def test_the_readme_example_plays_an_episode(
    task: TaskInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(code("README.md"), {})
    printed = capsys.readouterr().out
    assert task.problem_statement.strip() in printed
    assert "max_repeats empty_patch" in printed


@pytest.mark.sandbox
@pytest.mark.usefixtures("task")
def test_the_example_of_the_environment_plays_its_episodes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exec(code("docs/environment.md"), {})
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "toy-1/0/0/0 empty_patch",
        "toy-1/0/1/0 empty_patch",
    ]


def test_the_budgets_of_the_page_are_those_of_the_environment() -> None:
    import inspect

    from swe_gym_env.env import SWEEnv

    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs/environment.md").read_text(), re.M)
    options = inspect.signature(SWEEnv).parameters
    assert len(rows) == 6 and all(options[name].default == int(value) for name, value in rows)
