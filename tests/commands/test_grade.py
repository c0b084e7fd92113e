"""`grade` and `regrade`: predictions in every official form, and logs that are read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.commands import predictions
from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance
from tests.commands.conftest import FIX, WRONG, Run, rows

pytestmark = pytest.mark.sandbox


def prediction(name: str, patch: str | None) -> dict[str, Any]:
    return {"instance_id": name, "model_name_or_path": "m", "model_patch": patch}


@pytest.mark.slow
def test_predictions_are_graded_once_and_again_from_their_logs(
    task: TaskInstance, tmp_path: Path, run: Run
) -> None:
    names = ("good", "wrong", "none", "torn", "missing")
    many = [replace(task, instance_id=name) for name in names]
    path = rows(tmp_path / "rows.jsonl", *many)
    patches = {
        "good": FIX,
        "wrong": WRONG,
        "none": None,
        "torn": FIX.replace("a - b", "x"),
        "x": "",
    }
    preds, out = tmp_path / "preds.jsonl", tmp_path / "out"
    preds.write_text("".join(json.dumps(prediction(n, p)) + "\n" for n, p in patches.items()))
    command = ("grade", preds, "--tasks", path, "--out", out, "--sandbox", "local")
    done = run(*command)
    report = json.loads((out / "report.json").read_text())
    assert report["resolved_ids"] == ["good"] and report["empty_patch_ids"] == ["none"]
    assert report["unresolved_ids"] == ["wrong", "torn"]
    assert report["incomplete_ids"] == ["missing"] and report["total_instances"] == 5
    assert "1  resolved      20.0% of all tasks" in done.stdout
    assert "1  predictions for other tasks, not looked at" in done.stdout
    assert sorted(p.name for p in (out / "logs").glob("*.log")) == [
        "good.log",
        "torn.log",
        "wrong.log",
    ]

    before = (out / "results.jsonl").read_text()
    assert run(*command).stdout == done.stdout  # nothing to do
    assert (out / "results.jsonl").read_text() == before
    preds.write_text(json.dumps([prediction("wrong", FIX)]))
    preds.rename(tmp_path / "preds.json")
    changed = run("grade", tmp_path / "preds.json", *command[2:])
    assert "1/1  1 resolved" in changed.stderr  # a changed patch is graded again

    easier = [replace(one, fail_to_pass=("test_calc.py::test_gone",)) for one in many]
    rows(tmp_path / "other.jsonl", *easier)
    again = run("regrade", out, "--tasks", tmp_path / "other.jsonl")
    assert "good: resolved -> unresolved 1 of 1 tests still fail" in again.stdout
    assert "2 verdicts changed" in again.stdout
    back = run("regrade", out, "--tasks", path)
    assert "wrong: unresolved -> resolved" in back.stdout
    assert json.loads((out / "report.json").read_text())["empty_patch_ids"] == ["none"]


@pytest.mark.slow
def test_a_log_cannot_be_forged_between_grading_and_regrading(
    task: TaskInstance, tmp_path: Path, run: Run
) -> None:
    """The marker is not in the log's text alone: without its nonce nothing counts."""
    path = rows(tmp_path / "rows.jsonl", task)
    preds, out = tmp_path / "preds.jsonl", tmp_path / "out"
    preds.write_text(json.dumps(prediction("toy-1", FIX)) + "\n")
    run("grade", preds, "--tasks", path, "--out", out, "--sandbox", "local")
    (out / "logs" / "toy-1.json").write_text('{"nonce": "another"}')
    assert "toy-1: resolved -> infra_error" in run("regrade", out, "--tasks", path).stdout


def test_forms_of_predictions(tmp_path: Path) -> None:
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([prediction("a", "x"), prediction("b", None)]))
    mapped = tmp_path / "map.json"
    mapped.write_text(json.dumps({"a": {"model_patch": "x"}, "b": ""}))
    assert predictions.read(listed) == predictions.read(mapped) == {"a": "x", "b": ""}
    for text, message in {
        json.dumps({"instance_id": "a"}): "line 1: row a has no column 'model_patch'",
        json.dumps(prediction("a", 3)): "line 1, column 'model_patch': not a text: 3",  # type: ignore[arg-type]
        json.dumps(prediction("a", ""))
        + "\n"
        + json.dumps(prediction("a", "")): "line 2: a second",
        "{": "line 1, column 2 is not JSON",
    }.items():
        bad = tmp_path / "bad.jsonl"
        bad.write_text(text)
        with pytest.raises(SetupError, match=message):
            predictions.read(bad)


@pytest.mark.slow
def test_results_go_by_what_they_depend_on(task: TaskInstance, tmp_path: Path, run: Run) -> None:
    """A row corrected in place is judged anew; renamed, reordered and shortened files are not."""
    path, preds, out = tmp_path / "rows.jsonl", tmp_path / "preds.jsonl", tmp_path / "out"
    typo = replace(task, eval_script=task.eval_script.replace("test_calc", "test_clac"))
    preds.write_text(json.dumps(prediction("toy-1", FIX)) + "\n")
    grade = ("--out", out, "--sandbox", "local")
    validate = ("--out", tmp_path / "valid", "--sandbox", "local", "--repeats", 1)
    rows(path, typo)
    assert "1  unresolved" in run("grade", preds, "--tasks", path, *grade).stdout
    assert "1  gold_fails" in run("validate", path, *validate, code=1).stdout
    rows(path, task)
    assert "1  resolved" in run("grade", preds, "--tasks", path, *grade).stdout
    assert "1  valid" in run("validate", path, *validate).stdout
    other = rows(tmp_path / "other.jsonl", replace(task, problem_statement="Other words."), typo)
    other.write_text("".join(other.read_text().splitlines(keepends=True)[:1]))
    assert run("grade", preds, "--tasks", other, *grade, "--limit", 1).stderr == ""
    assert run("validate", other, *validate).stderr == ""
    lines = (out / "results.jsonl").read_text().splitlines()
    old = [{k: v for k, v in json.loads(line).items() if k != "key"} for line in lines]
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert "1/1" in run("grade", preds, "--tasks", path, *grade).stderr  # of an older version
    assert "not judged again" in run("regrade", out, "--tasks", rows(path, typo)).stdout


@pytest.mark.slow
def test_text_of_every_kind_passes_through_grading(
    task: TaskInstance, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    latin = (
        "diff --git a/d.txt b/d.txt\nnew file mode 100644\n--- /dev/null\n+++ b/d.txt\n"
        "@@ -0,0 +1 @@\n+Gr\udcfc\udcdfe\n"
    )
    patches = {
        "latin": FIX + latin,
        "stripped": FIX.strip(),
        "crlf": FIX.replace("\n", "\r\n"),
        "half": FIX + "\ud83d",
        "named": FIX.replace("calc.py", "\x1b[2Jcalc.py"),
        "café": FIX,
    }
    path = rows(tmp_path / "rows.jsonl", *(replace(task, instance_id=name) for name in patches))
    preds = tmp_path / "preds.jsonl"
    lines = "".join(json.dumps(prediction(*both)) + "\r\n" for both in patches.items())
    preds.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    done = run("grade", preds, "--tasks", path, "--out", tmp_path / "out", "--sandbox", "local")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["resolved_ids"]) == {"latin", "stripped", "crlf", "café"}, report
    stored = (tmp_path / "out" / "results.jsonl").read_text()
    assert "half of a character" in stored
    again = run("regrade", tmp_path / "out", "--tasks", path)
    assert "\x1b" not in done.stdout + done.stderr + again.stdout + again.stderr
    assert "0 verdicts changed" in again.stdout


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.json", b"null", "a list of rows is wanted, not null"),
        ("p.json", b"3", "a list of rows is wanted, not int"),
        ("p.json", b'[["a"]]', "p.json, row 1: an object is wanted, not list"),
        ("p.json", '{"a": "Grü"}'.encode("latin-1"), r"p.json is not UTF-8 at byte 9 \(line 1\)"),
        ("p.json", b'{"a": 5}', "prediction 1, column 'model_patch': not a text: 5"),
        ("p.json", b'{"a": "x", "a": "y"}', "'a' stands twice"),
        ("p.jsonl", b'{"instance_id": ["a"], "model_patch": ""}', "'instance_id': not a text"),
        ("p.jsonl", b'{"Instance_ID": "a"}', "no column 'instance_id'; it has 'Instance_ID'"),
        ("p.jsonl", b"", "holds no predictions"),
    ],
)
def test_predictions_that_are_none_say_what_is_wrong(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SetupError, match=message):
        predictions.read(tmp_path / name)
    with pytest.raises(SetupError, match="is a folder: give"):
        predictions.read(tmp_path)


def test_what_storing_took_from_a_patch_is_given_back() -> None:
    whole = FIX + FIX.replace("calc.py", "b.py").replace("1,2 +1,2", "1,4 +1,4") + " \n \n"
    for text in (whole, whole.strip(), whole.rstrip("\n"), whole.replace("\n", "\r\n")):
        assert predictions.repaired(text) == whole
    for text in ("", "no diff", "no diff\r\n", FIX + "\\ No newline at end of file\n"):
        assert predictions.repaired(text) == text
    mixed = FIX.replace("+    return a + b\n", "+    return a + b\r\n")
    assert predictions.repaired(mixed) == mixed  # of a file whose own lines end so


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--timeout", "nan"), ("--timeout", "-1"), ("--workers", "0")])
def test_limits_that_are_none_are_refused(run: Run, words: tuple[str, str]) -> None:
    assert words[0] in run("validate", "x.jsonl", *words, code=2).stderr
