"""Wrong docs are worse than none: links, paths, options, commands and examples are checked."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import algorithms
from algorithms.base import Round
from experiments.config.algorithms import build_algorithm
from swe_gym_env.env import SWEEnv
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, Turn
from tests.support.toy_tasks import real_provider, toy_task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *SITE]
OURS = ("swe_gym_env/", "algorithms/", "conf/", "experiments/", "tests/", "docs/", "examples/")
PACKAGES = ("swe_gym_env", "algorithms", "experiments", "examples", "tests")
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```\n", (ROOT / page).read_text(), re.S)


def code(page: str, language: str = "python") -> str:
    (block,) = blocks(page, language)
    return block


@every_page
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for path in re.findall(r"`([\w./-]+)`", text):
        if path.startswith(OURS) and "NAME" not in path:
            assert (ROOT / path).exists(), path


@every_page
def test_choices_named_exist(page: Path) -> None:
    for line in re.findall(r"experiments\.run (.*)", page.read_text()):
        for group, names in re.findall(r"(?<![.\w])(\w+)=([\w,/]+)", line):
            for name in names.split(",") if (ROOT / "conf" / group).is_dir() else ():
                option = ROOT / "conf" / group / f"{name}.yaml"
                assert option.exists() or name == "disagreement", f"{group}={name}"


@every_page
def test_commands_named_exist(page: Path) -> None:
    text = page.read_text()
    for module in re.findall(r"python -m\s+([\w.]+\w)", text):
        if module.split(".")[0] in PACKAGES:
            assert importlib.util.find_spec(module), f"python -m {module}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^    |`)make ([a-z]+)", text, re.M):
        assert target in targets, f"make {target}"


def test_command_page_lists_every_command_with_options_that_exist() -> None:
    page = (DOCS / "reference/commands.md").read_text()
    rows = re.findall(r"^\| `((?:experiments|swe_gym_env)\.?[\w.]*)([^|]*)\|(.*)$", page, re.M)
    for module, rest, columns in rows:
        path = ROOT / module.replace(".", "/")
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        text = "".join(source.read_text() for source in sources)
        for option in re.findall(r"`(--[\w-]+)", rest + columns):
            split = f'"{option.removeprefix("--")}"'  # build of pypi has an option for each split
            assert option in text or split in text or option == "--cfg", f"{module} {option}"
    listed = {module for module, *_ in rows}
    commands = [*(ROOT / "experiments").glob("*.py"), *(ROOT / "experiments/benchmarks").glob("*")]
    for file in commands:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.suffix == ".py" and '__name__ == "__main__"' in file.read_text():
            assert name in listed, f"{name} is missing in docs/reference/commands.md"


@every_page
def test_page_opens_with_its_readers(page: Path) -> None:
    if page == DOCS / "changelog.md" or page == ROOT / "README.md":
        return  # it includes CHANGELOG.md; README says what the project is
    title, blank, readers = page.read_text().splitlines()[:3]
    assert title.startswith("# ") and not blank
    assert readers.startswith(("*For ", "This page is for ")), readers


@pytest.mark.parametrize("page", SITE, ids=[page.stem for page in SITE])
def test_page_of_the_site_leads_on(page: Path) -> None:
    if page != DOCS / "changelog.md":
        assert re.search(r"\]\([\w./-]+\.md", page.read_text())


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation, and every link and anchor leads somewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    assert (tmp_path / "research/results/index.html").exists()


def test_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_example_algorithm_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that no paper has, in under 40 lines, found and built as a run would."""
    page = "docs/guides/add-an-algorithm.md"
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
    monkeypatch.chdir(tmp_path)  # the examples store episodes here
    real_provider("local")
    task = toy_task(tmp_path)
    monkeypatch.setattr(tasks, "load", lambda *_, **__: [task])
    return task


@pytest.mark.sandbox
@pytest.mark.usefixtures("task")
def test_the_readme_example_takes_a_step_and_plays_four_attempts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: dict[str, Any] = {}
    (block,) = blocks("README.md")
    exec(block, names)
    names["env"].close()
    assert "calc.py" in names["observation"], "what ls prints"
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"toy-1/0/{repeat}/0 empty_patch" for repeat in range(4)
    ]


@pytest.mark.sandbox
def test_the_task_of_the_guide_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swe_gym_env import tasks
    from swe_gym_env.grading import grade

    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sandboxes = real_provider("local")
    exec(code("docs/guides/add-tasks.md"), {})
    (task,) = tasks.load("jsonl", path="tasks.jsonl")
    assert grade(task, task.gold_patch, sandboxes, timeout=120).resolved
    wrong = task.gold_patch.replace("min(max(low, x), high)", "min(max(low, x), 9)")
    assert grade(task, wrong, sandboxes, timeout=120).status == "unresolved"


@pytest.mark.sandbox
@pytest.mark.usefixtures("task")
def test_the_policies_of_the_guide_play_their_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    function, batched = blocks("docs/guides/own-policy.md")
    names: dict[str, object] = {}
    exec(function, names)
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "toy-1/0/0/0 empty_patch",
        "toy-1/0/1/0 empty_patch",
    ]
    exec(batched, names)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("toy-1/0/0/0 ['") and "```bash" in line


def test_the_budgets_of_the_page_are_those_of_the_environment() -> None:
    page = (DOCS / "guides/environment.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.M)
    options = inspect.signature(SWEEnv).parameters
    assert len(rows) == 6 and all(options[name].default == int(value) for name, value in rows)
