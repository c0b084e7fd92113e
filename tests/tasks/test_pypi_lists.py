"""Lists of known bugs: they give what finding anew gives, and are used only where they fit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import images
from swe_gym_env.tasks.pypi import listed, package_builder
from swe_gym_env.tasks.pypi.build import FULL, build
from swe_gym_env.tasks.pypi.catalog import CORE, PACKAGES, Package
from swe_gym_env.tasks.pypi.choose import Wanted
from swe_gym_env.tasks.pypi.operators import ONE_TOKEN
from swe_gym_env.tasks.pypi.recording import SETS, record
from swe_gym_env.tasks.pypi.validate import Validator
from swe_gym_env.tasks.rows import from_row
from tests.support.toy_tasks import real_provider
from tests.tasks.tiny import own_store, tiny_package

pytestmark = pytest.mark.sandbox

COUNTS = {"unseen": 6}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, pip_environment: None
) -> tuple[Path, Package, Rows, Any]:
    """A folder with the list of a small package, the package, and what finding anew gave."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(own_store(folder)))
        patch.setattr(listed, "FOLDER", folder)
        tiny = tiny_package(folder, loop=False)  # loops take most of the time
        assert record(listed.path(), [tiny], [Wanted(COUNTS)]) > COUNTS["unseen"]
        rows = build([tiny], counts=COUNTS, anew=True)
        return folder, tiny, rows, Here.contents(rows)


class Here:
    """A separate store for each test, the list, and the bugs that are tried."""

    def __init__(self, folder: Path, recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        source, self.tiny, self.anew, self.trees = recorded
        self.store = own_store(folder)
        monkeypatch.setenv("SWE_GYM_HOME", str(self.store))
        monkeypatch.setattr(listed, "FOLDER", source)
        text = listed.path().read_text()
        monkeypatch.setattr(listed, "FOLDER", folder)
        listed.path().write_text(text)
        self.tried: list[str] = []
        self.measured: list[str] = []
        self._spy(monkeypatch)

    def _spy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        try_out, measure = Validator.try_out, package_builder.baseline

        def tried(validator: Validator, bug: Any, *args: Any) -> Any:
            self.tried.append(bug.id)
            return try_out(validator, bug, *args)

        def measured(package: Package, *args: Any) -> Any:
            self.measured.append(package.name)
            return measure(package, *args)

        monkeypatch.setattr(Validator, "try_out", tried)
        monkeypatch.setattr(package_builder, "baseline", measured)

    def forget(self) -> None:
        for name in ("tasks", "images"):
            shutil.rmtree(self.store / name, ignore_errors=True)

    @staticmethod
    def contents(rows: Rows) -> list[dict[str, bytes]]:
        """Every file that an agent finds, and the commit's own bytes."""
        found = []
        for row in rows:
            tree = images.load(row["image"]).tree_path
            files = {str(p.relative_to(tree)): p for p in tree.rglob("*") if p.is_file()}
            here = {n: p.read_bytes() for n, p in files.items() if not n.startswith(".git/")}
            command = ["git", "cat-file", "-p", "HEAD"]
            here["HEAD"] = subprocess.run(command, cwd=tree, capture_output=True).stdout
            found.append(here)
        return found

    def edit(self, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Change the list's lines: the package's, then its bugs'."""
        lines = [json.loads(line) for line in listed.path().read_text().splitlines()]
        change(lines)
        listed.path().write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def here(tmp_path: Path, recorded: Any, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, recorded, monkeypatch)


def valid(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("verdict") == "valid"]


@pytest.mark.slow
def test_the_list_gives_byte_for_byte_what_finding_anew_gives(here: Here) -> None:
    rows = build([here.tiny], counts=COUNTS)
    assert rows == here.anew and here.contents(rows) == here.trees
    assert not here.measured, "the suite's facts are in the list"
    assert len(here.tried) == listed.SAMPLE, "only the sample was tried"
    known = [json.loads(line) for line in listed.path().read_text().splitlines()][1:]
    assert {line["verdict"] for line in known} > {"valid"}, "bugs that were no task are listed too"
    assert all({"file", "operator", "bytes", "new"} <= set(line) for line in known)


@pytest.mark.slow
def test_the_same_sample_is_tried_once_in_a_store(here: Here) -> None:
    build([here.tiny], counts={"unseen": 2})
    first = list(here.tried)
    build([here.tiny], counts=COUNTS)
    assert here.tried == first
    here.forget()
    build([here.tiny], counts=COUNTS)
    assert here.tried == first * 2


@pytest.mark.slow
def test_tasks_from_the_list_are_tasks(here: Here) -> None:
    sandboxes = real_provider("process")
    for row in build([here.tiny], counts={"unseen": 3}):
        task = from_row(row, "pypi")
        assert grade(task, task.gold_patch, sandboxes, timeout=120).reward == 1.0
        wrong = task.gold_patch.replace("\n+", "\n+ ")
        assert grade(task, wrong, sandboxes, timeout=120).reward == 0.0


@pytest.mark.slow
def test_bugs_that_are_not_in_the_list_are_found_anew(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    here.edit(lambda lines: lines.__delitem__(slice(3, None)))
    rows = build([here.tiny], counts=COUNTS)
    assert rows == here.anew and here.contents(rows) == here.trees
    assert here.measured == ["tiny"] and len(here.tried) > 3 and not caplog.messages


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", "2"),
        ("sha256", "0" * 64),
        ("recipe", 0),
        ("pytest", ["pytest==8.0.0"]),
        ("requires", ["other==1"]),
    ],
)
def test_a_list_of_another_package_is_not_looked_at(here: Here, column: str, value: object) -> None:
    assert listed.find(here.tiny) is not None
    here.edit(lambda lines: lines[0]["package"].__setitem__(column, value))
    assert listed.find(here.tiny) is None


def other_tree(lines: list[dict[str, Any]]) -> None:
    lines[0]["tree"] = "0" * 40


def never_valid(lines: list[dict[str, Any]]) -> None:
    for line in lines[1:]:
        line |= {**valid(lines)[0], "bug": line["bug"]}


def other_tests(lines: list[dict[str, Any]]) -> None:
    for line in valid(lines):
        line["fails"] = line["fails"][1:] or ["tests/test_tiny.py::test_nothing"]


def other_words(lines: list[dict[str, Any]]) -> None:
    for line in valid(lines):
        line["symptoms"] = ["`tiny` misbehaves"]


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_tree, never_valid, other_tests, other_words])
def test_a_list_that_does_not_fit_is_left_with_one_line(
    here: Here, change: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    here.edit(change)
    rows = build([here.tiny], counts=COUNTS)
    assert rows == here.anew and here.contents(rows) == here.trees
    (words,) = caplog.messages
    assert words.startswith("tiny 1: the list of bugs does not fit, they are found anew: ")
    build([here.tiny], counts={"unseen": 7})
    assert len(caplog.messages) == 1, "the store remembers"


@pytest.mark.slow
def test_a_suite_with_other_tests_than_the_lists_is_noticed_when_it_runs(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[0]["left_out"] = {"tests/test_tiny.py": ["test_gone"]}
        del lines[4:]

    here.edit(change)
    build([here.tiny], counts={"unseen": 1})
    (ledger,) = (here.store / "tasks" / "pypi").glob("*/ledger.jsonl")
    assert '"list"' in ledger.read_text() and not here.measured and not caplog.messages
    assert build([here.tiny], counts=COUNTS) == here.anew
    (words,) = caplog.messages
    assert words.endswith("the package's suite has another left_out here")
    verdicts = [json.loads(line) for line in ledger.read_text().splitlines()]
    redone = {one["candidate"] for one in verdicts if "list" in one}
    assert redone <= {one["candidate"] for one in verdicts if "finding" in one}


@pytest.mark.slow
def test_one_wrong_tree_in_the_list_concerns_one_bug(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    sample = valid([json.loads(x) for x in listed.path().read_text().splitlines()])
    build([here.tiny], counts=COUNTS)
    (tried,) = here.tried
    wrong = next(line["bug"] for line in sample if line["bug"] != tried)
    here.forget()

    def change(lines: list[dict[str, Any]]) -> None:
        next(x for x in lines if x.get("bug") == wrong)["commit"] = "0" * 40

    here.edit(change)
    assert build([here.tiny], counts=COUNTS) == here.anew
    assert here.tried == [tried, tried, wrong]
    assert [wrong in words for words in caplog.messages] == [True]


@pytest.mark.slow
def test_what_a_changed_list_had_given_is_not_kept(here: Here) -> None:
    build([here.tiny], counts=COUNTS)
    here.edit(lambda lines: lines.__delitem__(slice(5, None)))
    assert build([here.tiny], counts=COUNTS) == here.anew
    assert here.measured == ["tiny"]


@pytest.mark.slow
def test_a_store_whose_suite_was_measured_takes_the_list_if_they_agree(here: Here) -> None:
    build([here.tiny], counts={"unseen": 1}, anew=True)
    here.tried.clear()
    assert build([here.tiny], counts=COUNTS) == here.anew
    assert len(here.tried) == listed.SAMPLE


@pytest.mark.slow
def test_listed_suite_that_does_not_pass_here_is_refused(here: Here) -> None:
    suite = Path(here.tiny.local) / "tests" / "test_tiny.py"
    text = suite.read_text()
    suite.write_text("import nothing_like_it\n")
    try:
        with pytest.raises(SetupError, match=r"(?s)does not pass here.*nothing_like_it"):
            build([here.tiny], counts=COUNTS)
    finally:
        suite.write_text(text)


@pytest.mark.slow
def test_another_python_has_no_list(
    here: Here, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listed, "FOLDER", here.store)
    with caplog.at_level("INFO"):
        assert build([here.tiny], counts=COUNTS) == here.anew
    (words,) = [words for words in caplog.messages if "list" in words]
    assert words.startswith("no list for this Python (validated-3.")


@pytest.mark.slow
def test_a_store_of_an_older_version_cannot_be_recorded(here: Here) -> None:
    build([here.tiny], counts={"unseen": 1}, anew=True)
    (ledger,) = (here.store / "tasks" / "pypi").glob("*/ledger.jsonl")
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    for entry in entries:
        del entry["finding"]
    ledger.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(SetupError, match="SWE_GYM_HOME pointing at an empty folder"):
        record(listed.path(), [here.tiny], [Wanted(COUNTS)])


@pytest.mark.network
@pytest.mark.slow
def test_a_package_that_is_known_to_work_is_not_left_out_because_pip_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a network that is away for a minute would give another set of tasks."""
    monkeypatch.setenv("SWE_GYM_HOME", str(own_store(tmp_path)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        SetupError, match=r"(?s)pip .* failed and said.*then the same command continues"
    ):
        build(["schema", "inflection"], counts={"unseen": 1})


def test_the_list_that_ships_is_of_this_version() -> None:
    """Where this fails: python -m swe_gym_env.tasks.pypi record, in an empty SWE_GYM_HOME."""
    files = sorted(Path(listed.__file__).parent.glob("validated-*.jsonl"))
    assert [file.name for file in files] == ["validated-3.11.jsonl"]
    assert files[0].stat().st_size < 1_000_000
    heads = [json.loads(line) for line in files[0].read_text().splitlines() if '"package"' in line]
    wanted = [listed._plain(listed._identity(PACKAGES[name])) for name in CORE]
    assert [head["package"] for head in heads] == wanted


def test_the_list_is_for_the_sets_that_are_drawn_by_default() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    conf = Path(__file__).parents[2] / "conf"
    source = omegaconf.OmegaConf.load(conf / "tasks" / "pypi.yaml")
    evaluation = pytest.importorskip("experiments.config.schema").Evaluation()
    demo, default = SETS
    assert tuple(source.options.operators) == demo.operators == ONE_TOKEN
    assert demo.counts == {"train": source.train, evaluation.split: evaluation.tasks}
    assert default == Wanted(FULL)


def test_the_list_is_in_the_wheel() -> None:
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    patterns = tomllib.loads(text)["tool"]["setuptools"]["package-data"]
    folder = Path(listed.__file__).parent
    ours = patterns["swe_gym_env.tasks.pypi"]
    shipped = {file for pattern in ours for file in folder.glob(pattern)}
    assert shipped == set(folder.glob("*.jsonl"))
