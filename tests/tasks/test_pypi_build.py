"""Building tasks: from a small package made here, and from a real one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.tasks import pypi
from swe_gym_env.tasks.pypi.build import PackageBuilder, build
from swe_gym_env.tasks.pypi.catalog import Package
from tests.tasks.tiny import SOURCE, TESTS, own_store, tiny_package

pytestmark = pytest.mark.sandbox


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip_environment: None) -> Path:
    home = own_store(tmp_path)
    monkeypatch.setenv("SWE_GYM_HOME", str(home))
    return home


@pytest.fixture
def tiny(tmp_path: Path) -> Package:
    return tiny_package(tmp_path)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["instance_id"] for row in rows]


@pytest.mark.slow
def test_a_package_becomes_tasks(store: Path, tiny: Package) -> None:
    seen: list[tuple[int, int, str]] = []
    rows = build([tiny], counts={"unseen": 6}, progress=lambda *now: seen.append(now))
    assert len(rows) == 6 and seen[-1][:2] == (6, 6)
    for row in rows:
        assert row["FAIL_TO_PASS"] and row["PASS_TO_PASS"]
        assert not set(row["FAIL_TO_PASS"]) & set(row["PASS_TO_PASS"])
        tree = images.load(row["image"]).tree_path
        log = subprocess.run(
            ["git", "log", "--all", "--format=%H"], cwd=tree, capture_output=True, text=True
        )
        assert log.stdout.split() == [row["base_commit"]]
        hidden = {test.split("::")[1].split("[")[0] for test in row["FAIL_TO_PASS"]}
        visible = (tree / "tests" / "test_tiny.py").read_text()
        assert not any(f"def {name}(" in visible for name in hidden)
        assert not list(tree.rglob("*.pyc"))
        work = store.parent / "work"
        shutil.copytree(tree, work)
        for patch in (row["patch"], row["test_patch"]):
            subprocess.run(["git", "apply", "-"], cwd=work, input=patch.encode(), check=True)
        assert (work / "tiny" / "__init__.py").read_text() == SOURCE
        assert (work / "tests" / "test_tiny.py").read_text() == TESTS
        shutil.rmtree(work)
        assert str(store) not in json.dumps(row)


@pytest.mark.slow
def test_the_set_is_the_same_for_any_number_of_workers(store: Path, tiny: Package) -> None:
    many = build([tiny], counts={"unseen": 5}, workers=3)
    shutil.rmtree(store / "tasks")
    shutil.rmtree(store / "images")
    one = build([tiny], counts={"unseen": 5}, workers=1)
    assert one == many


@pytest.mark.slow
def test_a_killed_build_goes_on(
    store: Path, tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = build([tiny], counts={"unseen": 3})
    (ledger,) = (store / "tasks" / "pypi").glob("*/ledger.jsonl")
    kept = len(ledger.read_text().splitlines())
    with ledger.open("a") as out:
        out.write('{"candidate": "cut off he')
    tried: list[str] = []
    original = PackageBuilder.try_out

    def spy(builder: PackageBuilder, candidate: Any) -> str:
        tried.append(candidate.id)
        return original(builder, candidate)

    monkeypatch.setattr(PackageBuilder, "try_out", spy)
    assert ids(build([tiny], counts={"unseen": 5}))[:3] == ids(small)
    assert 0 < len(tried) == len(set(tried))
    assert not set(tried) & {
        json.loads(x)["candidate"] for x in ledger.read_text().split("\n")[:kept]
    }
    tried.clear()
    shutil.rmtree(images.path_of(small[0]["image"]))
    again = build([tiny], counts={"unseen": 5})
    assert len(tried) == 1 and ids(again)[:3] == ids(small), "a lost image is made again"


@pytest.mark.slow
def test_an_endless_loop_is_no_task(store: Path, tiny: Package) -> None:
    builder = PackageBuilder(tiny)
    endless = next(c for c in builder.candidates if c.edit.new == b"+=")
    try:
        assert builder.try_out(endless) == "timeout"
    finally:
        builder.close()


def test_a_suite_that_fails_is_refused_in_its_own_words(store: Path, tiny: Package) -> None:
    (Path(tiny.local) / "tests" / "test_tiny.py").write_text("import nothing_like_it\n")
    with pytest.raises(SetupError, match=r"(?s)does not pass here.*--with NAME.*nothing_like_it"):
        build([tiny], counts={"unseen": 1})


@pytest.mark.network
@pytest.mark.slow
def test_a_real_package_in_small() -> None:
    rows = pypi.load(split="unseen", packages=["inflection"], limit=4)
    assert len(rows) == 4
    for task in rows:
        assert task.split == "unseen" and "The fault is in" in task.problem_statement
        assert "shape" not in task.metadata
    plain = pypi.load(split="unseen", packages=["inflection"], limit=4, help="symptom")
    for located, symptom in zip(rows, plain, strict=True):
        assert located.problem_statement.startswith(symptom.problem_statement)
        assert located.metadata["function"] not in symptom.problem_statement.splitlines()[0]


@pytest.mark.network
@pytest.mark.slow
def test_no_function_stands_in_two_splits() -> None:
    counts = {"train": 8, "val": 4, "heldout": 8}
    rows = build(["funcy", "voluptuous"], counts=counts)
    places = {(r["metadata"]["file"], r["metadata"]["function"]): set() for r in rows}
    for row in rows:
        key = (row["metadata"]["file"], row["metadata"]["function"])
        places[key].add(row["split"])
    assert len(rows) == 20 and all(len(splits) == 1 for splits in places.values())
