"""Task files as users write them, and as they get them wrong."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.jsonl import save
from swe_gym_env.tasks.rows import from_row


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "instance_id": f"o__r-{number}",
        "repo": "o/r",
        "base_commit": "0" * 40,
        "image": "an/image:latest",
        "problem_statement": "It breaks.",
        "patch": "",
        "test_patch": "",
        "FAIL_TO_PASS": ["t.py::a"],
        "PASS_TO_PASS": '["t.py::b"]',
        "eval_script": "pytest",
        **changes,
    }


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(one) for one in rows))
    return str(path)


def load(path: str, **options: Any) -> list[str]:
    return [task.instance_id for task in tasks.load("jsonl", path=path, **options)]


def test_files_folders_and_parquet_give_the_same_tasks(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    rows = [row(1), row(2, PASS_TO_PASS='["t.py::c"]', metadata={"version": "1"})]
    jsonl = write(tmp_path / "rows.jsonl", *rows)
    table = tmp_path / "rows.json"
    table.write_text(json.dumps(rows))
    folder = tmp_path / "data"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), folder / "train-0.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[1:]), folder / "train-1.parquet")
    for path in (jsonl, str(table), str(folder)):
        found = tasks.load("jsonl", path=path)
        assert [task.instance_id for task in found] == ["o__r-1", "o__r-2"]
        assert [task.pass_to_pass for task in found] == [("t.py::b",), ("t.py::c",)]
        assert found[1].metadata == {"version": "1"}
    assert load(str(folder), limit=1) == ["o__r-1"]


def test_splits_by_column_and_by_the_names_of_files(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row(1, split="train"), row(2, split="heldout"))
    assert load(path) == load(path, split="all") == ["o__r-1", "o__r-2"]
    assert load(path, split="heldout") == ["o__r-2"]
    folder = tmp_path / "parts"
    write(folder / "train.jsonl", row(1))
    write(folder / "heldout.jsonl", row(2))
    assert load(str(folder), split="heldout") == ["o__r-2"]


def test_saved_tasks_are_the_same_when_read_again(tmp_path: Path) -> None:
    task = from_row(row(1, metadata={"setup": "true"}, env={"A": "b"}), "jsonl")
    save([task], tmp_path / "saved.jsonl")
    assert tasks.load("jsonl", path=str(tmp_path / "saved.jsonl")) == [task]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"instance_id": "x", }', r"rows.jsonl, line 2, column 22 is not JSON"),
        ('["a list"]', r"rows.jsonl, line 2: an object is wanted, not list"),
        (json.dumps({"instance_id": "x"}), r"rows.jsonl, line 2: row x has no column 'repo'"),
        (
            json.dumps(row(2, FAIL_TO_PASS="t.py::a")),
            r"rows.jsonl, line 2, column 'FAIL_TO_PASS': not a list of strings: 't.py::a'",
        ),
        (json.dumps(row(2, image=None)), r"rows.jsonl, line 2, column 'image': not a text: None"),
        (json.dumps(row(2, env="A=b")), r"rows.jsonl, line 2, column 'env': not an object"),
        (json.dumps(row(1)), r"rows.jsonl, line 2: task o__r-1 stands at .*, line 1 already"),
    ],
)
def test_errors_name_file_line_and_column(tmp_path: Path, second: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + second + "\n")
    with pytest.raises(SetupError, match=message):
        load(str(path))


def test_other_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "rows.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(SetupError, match=r"rows.parquet cannot be read as parquet"):
        load(str(broken))
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(SetupError, match="a list of rows is wanted, not dict"):
        load(str(tmp_path / "one.json"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(SetupError, match=r"latin.jsonl is not UTF-8 at byte 7"):
        load(str(tmp_path / "latin.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"holds no .jsonl, .json, .parquet file"):
        load(str(tmp_path / "empty"))
    with pytest.raises(SetupError, match="no task file at 'rows': give a file, a folder, or a hub"):
        load("rows")


WRONG_COLUMNS = {
    "env value": ({"env": {"N": 1}}, r"'env': the value of 'N' is not a text: 1 \(write it in quo"),
    "env name": ({"env": {"A=B": "c"}}, "'env': not the name of a variable: 'A=B'"),
    "env NUL": ({"env": {"A": "\0"}}, "'env': the value of 'A' cannot be"),
    "parser": ({"log_parser": "parse_log_foo"}, "'log_parser': unknown log parser 'parse_log_foo'"),
    "near": ({"log_parser": "pytests"}, "'log_parser': .*'pytests': pytest\\?"),
    "parser kind": ({"log_parser": 3}, "'log_parser': not a text: 3"),
    "eval_type": ({"eval_type": "pass_and_fial"}, "'eval_type': .* not one of .*; pass_and_fail"),
    "no tests": ({"FAIL_TO_PASS": [], "PASS_TO_PASS": []}, "'FAIL_TO_PASS': names no test at all"),
    "none to fix": ({"FAIL_TO_PASS": []}, "'FAIL_TO_PASS': names no test that must begin to"),
    "in both": ({"PASS_TO_PASS": ["t.py::a"]}, "'PASS_TO_PASS': 't.py::a' stands in FAIL_TO_PASS"),
    "twice": ({"PASS_TO_PASS": ["b", "b"]}, "'PASS_TO_PASS': 'b' stands there twice"),
    "blank test": ({"FAIL_TO_PASS": [" "]}, "'FAIL_TO_PASS': not a test id: ' '"),
    "two lines": ({"FAIL_TO_PASS": ["a\nb"]}, "'FAIL_TO_PASS': a test id holds"),
    "with commas": ({"FAIL_TO_PASS": "a,b"}, "'FAIL_TO_PASS': not a list of strings: 'a,b'"),
    "text of a number": ({"FAIL_TO_PASS": "3"}, "'FAIL_TO_PASS': not a list of strings: '3'"),
    "an object": ({"FAIL_TO_PASS": {"a": 1}}, "'FAIL_TO_PASS': not a list of strings"),
    "id kind": ({"instance_id": 7}, "'instance_id': not a text: 7"),
    "id blank": ({"instance_id": "  "}, "'instance_id': is empty"),
    "id slash": ({"instance_id": "../../etc/x"}, "'instance_id': files are named after it"),
    "id control": ({"instance_id": "a\x1b[2J"}, "'instance_id': holds the control character"),
    "id long": ({"instance_id": "é" * 99}, "'instance_id': is too long"),
    "statement": ({"problem_statement": " \n"}, "'problem_statement': is empty"),
    "half": (
        {"problem_statement": "x \ud83d"},
        r"'problem_statement': holds half .*'.ud83d' at cha",
    ),
    "patch": ({"patch": "fix it"}, "'patch': not a diff"),
    "patch crlf": ({"patch": "diff --git a/x b/x\r\n@@\r\n"}, "'patch': its lines end in CR LF"),
    "test_patch": ({"test_patch": "[]"}, "'test_patch': not a diff"),
    "commit": ({"base_commit": "main"}, "'base_commit': the commit's hash in hexadecimal"),
    "commit empty": ({"base_commit": ""}, "'base_commit': the commit's hash"),
    "image": ({"image": "../../up"}, "'image': not the name of an image"),
    "image empty": ({"image": ""}, "'image': is empty"),
    "script": ({"eval_script": "\n"}, "'eval_script': is empty"),
    "script NUL": ({"eval_script": "a\0b"}, "'eval_script': holds a NUL"),
    "workdir": ({"workdir": "testbed"}, "'workdir': an absolute path"),
    "workdir up": ({"workdir": "/a/../b"}, "'workdir': an absolute path"),
    "split": ({"split": 3}, "'split': not a text: 3"),
    "metadata": ({"metadata": [1]}, "'metadata': not an object"),
    "setup": ({"metadata": {"setup": 1}}, "'metadata': 'setup' is not a text"),
    "case": ({"Eval_Type": "fail_only"}, "'eval_type': it has 'Eval_Type': upper and lower case"),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_every_column_is_checked_at_load(tmp_path: Path, name: str) -> None:
    """With file, line and column, before anything is built or started."""
    changes, message = WRONG_COLUMNS[name]
    path = write(tmp_path / "rows.jsonl", row(1), row(2, **changes))
    with pytest.raises(SetupError, match=f"rows.jsonl, line 2, column {message}"):
        load(path)
    assert load(path, limit=1) == ["o__r-1"]  # what is not read is not checked


def test_a_name_in_lower_case_is_hinted_at(tmp_path: Path) -> None:
    lower = {key.lower(): value for key, value in row().items()}
    with pytest.raises(SetupError, match="no column 'FAIL_TO_PASS'; it has 'fail_to_pass': upper"):
        load(write(tmp_path / "rows.jsonl", lower))


def test_a_tag_is_a_commit_where_the_row_makes_it(tmp_path: Path) -> None:
    made = row(base_commit="the-base", metadata={"setup": "git tag the-base"})
    assert load(write(tmp_path / "rows.jsonl", made, row(2, base_commit="0123abcd"))) != []


def test_columns_that_nobody_knows_are_allowed(tmp_path: Path) -> None:
    assert load(write(tmp_path / "rows.jsonl", row(hints="x", created_at=None))) == ["o__r-1"]


def test_files_as_other_systems_write_them(tmp_path: Path) -> None:
    text = json.dumps(row(1)) + "\r\n" + json.dumps(row(2, problem_statement="é")) + "\r\n"
    for name, data in {
        "crlf.jsonl": text.encode(),
        "bom.jsonl": b"\xef\xbb\xbf" + text.encode(),
        "utf16.jsonl": text.encode("utf-16"),
        "utf16le.jsonl": text.encode("utf-16-le"),
        "packed.jsonl.gz": gzip.compress(text.encode()),
        "packed.jsonl": gzip.compress(text.encode()),
        "lines.json": text.encode(),
        "list.json": b"\xef\xbb\xbf" + json.dumps([row(1), row(2)]).encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert load(str(tmp_path / name)) == ["o__r-1", "o__r-2"], name
        assert len(tasks.load("jsonl", path=tmp_path / name)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no rows"),
        (b"\n \n", "holds no rows"),
        (b'{"a": NaN}', "line 1 is not JSON: NaN is no number"),
        (b'{"a": 1, "a": 2}', "line 1 is not JSON: 'a' stands twice"),
        (b"[" * 99_999, "line 1 is not JSON"),
        (b"9" * 9_999, "line 1 is not JSON"),
        (b"null", "line 1: an object is wanted, not null"),
        (b"\x00\x01\x02", "rows.jsonl"),
        (b'{"a": "\x00"}', "line 1, column 8 is not JSON"),
        (b"\n \n\xff{}", r"not UTF-8 at byte 3 \(line 3\)"),
        (gzip.compress(b"{}", mtime=0)[:-6], "cannot be read"),
        (b"PAR1 no", "cannot be read as parquet"),
    ],
)
def test_what_is_no_file_of_rows_says_why(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(SetupError, match=message):
        load(str(tmp_path / "rows.jsonl"))


def test_a_split_that_nobody_has_lists_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row(1, split="train"), row(2, split="train"), row(3))
    with pytest.raises(SetupError, match=r"split 'tain': there are train \(2\), no split \(1\)"):
        load(path, split="tain")


def test_all_of_a_folder_is_every_file_and_names_are_whole_words(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1))
    write(tmp_path / "test-0.jsonl", row(2))
    write(tmp_path / "testing.jsonl", row(3))
    found = tasks.load("jsonl", path=str(tmp_path))
    assert {task.instance_id: task.split for task in found} == {
        "o__r-1": "train",
        "o__r-2": "test",
        "o__r-3": "",
    }
    assert load(str(tmp_path), split="test") == ["o__r-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "limit=-1 is not a whole number or null of at least 0"),
        ({"limit": 2.5}, "limit=2.5 is not a whole number"),
        ({"limit": True}, "limit=True is not a whole number"),
        ({"limit": float("nan")}, "limit=nan is not a whole number"),
        ({"limit": "3"}, "limit='3' is not a whole number"),
        ({"path": 5}, "path=5 is not a text"),
        ({"split": None}, "split=None is not a text"),
    ],
)
def test_options_of_the_wrong_kind_are_named(options: dict[str, Any], message: str) -> None:
    for source in ("jsonl", "swe_gym", "swe_smith", "swe_rebench", "r2e_gym", "swebench"):
        if source != "swebench" or "path" not in options:
            with pytest.raises(SetupError, match=f"task source '{source}': {message}"):
                tasks.load(source, **options)


@pytest.mark.slow
def test_five_of_many_rows_are_read_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(20_000)) + "not JSON\n")
    assert len(load(str(path), limit=5)) == 5
    with pytest.raises(SetupError, match="line 20001, column 1 is not JSON"):
        load(str(path))


def test_tasks_made_in_python_are_checked_by_the_environment() -> None:
    from swe_gym_env import SWEEnv

    good = from_row(row())
    assert check(replace(good, base_commit="")) is not None  # the sandbox will say
    for changes, message in (
        ({"eval_type": "pass_and_fial"}, "task 'o__r-1', column 'eval_type'"),
        ({"fail_to_pass": "t.py::a"}, "column 'FAIL_TO_PASS': not a list of test ids: 't.py::a'"),
        ({"env": {"N": 1}}, "column 'env': the value of 'N' is not a text"),
        ({"metadata": None}, "column 'metadata': not an object"),
        ({"problem_statement": None}, "column 'problem_statement': not a text"),
    ):
        bad = replace(good, **changes)  # type: ignore[arg-type]
        with pytest.raises(SetupError, match=message):
            SWEEnv([bad], sandbox="process").reset()


def test_a_classic_row_is_checked_before_it_is_rebuilt(tmp_path: Path) -> None:
    """In both builds, with its place, and with no network asked."""
    lacking = {key: value for key, value in row().items() if key not in ("eval_script", "image")}
    for build in ("docker", "sdist"):
        for changes, message in (
            ({"repo": "nobody/nothing"}, "line 1: no test command is known for 'nobody/nothing'"),
            ({"repo": 5}, "line 1, column 'repo': not a text"),
            ({"version": None}, "line 1, column 'version': not a text"),
            ({"env": {"N": 1}}, "line 1, column 'env'"),
            ({"log_parser": "nose", "eval_script": "x"}, "line 1, column 'log_parser'"),
        ):
            classic = {"version": "3.0", **lacking, "repo": "django/django", **changes}
            path = write(tmp_path / "rows.jsonl", classic)
            with pytest.raises(SetupError, match=f"rows.jsonl, {message}"):
                tasks.load("swebench", path=path, build=build, instances=["o__r-1"])
    classic = {"version": "3.0", **lacking, "repo": "django/django"}
    with pytest.raises(SetupError, match="line 2: task o__r-1 stands at"):
        tasks.load("swebench", path=write(tmp_path / "rows.jsonl", classic, classic))
