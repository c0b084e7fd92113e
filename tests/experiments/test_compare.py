"""Evaluations side by side: what the table claims, from folders whose counts are known."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import compare
from experiments.console import terminal
from experiments.results.statistics import bootstrap_difference, mcnemar, rate
from experiments.results.tables import Table
from experiments.runs.evaluations import read as read_evaluation
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode, Outcome
from tests.experiments.sample_run import write_lines

CONFIG = """limits: {{max_turns: {turns}}}
actions: {{name: bash_block}}
tasks: {{name: pypi}}
evaluation: {{split: heldout, tasks: {tasks}, samples: null}}
"""


def evaluation(
    folder: Path, resolved: list[list[bool | None]], seed: int = 0, turns: int = 10
) -> Path:
    """``resolved``: of each task, its samples; None is an infrastructure failure."""
    rows = []
    for number, samples in enumerate(resolved):
        for repeat, one in enumerate(samples):
            status = {True: "resolved", False: "unresolved", None: "infra_error"}[one]
            outcome = Outcome(status, mask=one is None)  # type: ignore[arg-type]
            name = f"t-{number}"
            key = f"{name}/0/{repeat}/{seed}"
            rows.append(Episode(key, name, seed, 0, repeat, "", (), outcome, "finished"))
    write_lines(folder / "episodes.jsonl", rows)
    (folder / "evaluate.done").touch()
    (folder / "config.yaml").write_text(CONFIG.format(turns=turns, tasks=len(resolved)))
    return folder


def once(values: list[bool]) -> list[list[bool | None]]:
    return [[value] for value in values]


def table(folder: Path, name: str) -> dict[str, dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return {row["who"]: row for row in csv.DictReader(file)}


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    monkeypatch.setenv("COLUMNS", "200")
    compare.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_two_models_on_the_tasks_that_both_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [number % 4 == 0 for number in range(40)]
    after = [number % 4 == 0 or number % 5 == 0 for number in range(30)]
    one = evaluation(tmp_path / "one", once(before))
    two = evaluation(tmp_path / "two", once(after), turns=20)
    out = tmp_path / "out"
    output = printed(capsys, monkeypatch, str(one), f"better={two}", "--out", str(out))
    assert "better has 30 tasks, one 40: compared on the 30 that are shared" in output
    assert "limits.max_turns is 20 for better, 10 for one" in output
    rates, found = table(out, "rates"), table(out, "differences")["better"]
    expected = rate(10, 40)
    assert float(rates["one"]["low"]) == expected.low and rates["one"]["tasks"] == "40"
    names = [f"t-{number}" for number in range(30)]
    exact = mcnemar(dict(zip(names, before, strict=False)), dict(zip(names, after, strict=True)))
    assert (found["gained"], found["lost"]) == (str(exact.gained), "0")
    assert float(found["p (McNemar)"]) == exact.p
    order = sorted(range(30), key=lambda number: f"t-{number}")
    drawn = bootstrap_difference(np.array(after)[order], np.array(before)[order])
    assert (float(found["difference"]), float(found["p"])) == (drawn.mean, drawn.p)
    assert float(found["p (Holm)"]) == drawn.p, "one test needs no correction"


@pytest.mark.slow
def test_seeds_are_paired_where_they_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    matrices = {name: rng.random((3, 20)) < share for name, share in (("a", 0.3), ("b", 0.6))}
    folders = {
        name: [
            str(evaluation(tmp_path / f"{name}{seed}", once(list(map(bool, row))), seed))
            for seed, row in enumerate(matrix)
        ]
        for name, matrix in matrices.items()
    }
    out = tmp_path / "out"
    given = [word for name in "ab" for word in ("--group", f"{name}={','.join(folders[name])}")]
    output = printed(capsys, monkeypatch, *given, "--out", str(out))
    assert "Warning" not in output and "Resolved, by seed" in output
    found = table(out, "differences")["b"]
    order = sorted(range(20), key=lambda number: f"t-{number}")
    after, before = (matrices[name][:, order].astype(float) for name in "ba")
    expected = bootstrap_difference(after, before)
    assert [float(found[key]) for key in ("difference", "low", "high", "p")] == [
        expected.mean,
        expected.low,
        expected.high,
        expected.p,
    ]
    assert found["gained"] == "", "McNemar is for one episode a task"
    with (out / "seeds.csv").open(newline="") as file:
        seeds = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    assert seeds == [[seed, *(matrices[name][seed].mean() for name in "ab")] for seed in range(3)]
    fewer = printed(capsys, monkeypatch, folders["a"][0], "--group", f"b={','.join(folders['b'])}")
    assert "seeds are drawn for each apart" in fewer


def test_a_wide_table_is_turned_only_where_that_makes_it_narrower() -> None:
    def shown(rows: int) -> str:
        file = io.StringIO()
        table = Table("t", "T", ["who", "x" * 40], [["a", "b"]] * rows)
        terminal.show(Console(width=30, file=file), table)
        return file.getvalue()

    assert re.search("who +a", shown(1))
    assert shown(30).count("\n  a  ") == 30


@pytest.mark.slow
def test_faults_and_samples_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = evaluation(tmp_path / "one", [[True, False], [None, True], [None, None]])
    two = evaluation(tmp_path / "two", [[True, True], [True, True], [False, False]])
    (two / "evaluate.done").unlink()
    assert read_evaluation(one).resolved == pytest.approx(
        {"t-0": 0.5, "t-1": 1.0, "t-2": float("nan")}, nan_ok=True
    )
    output = printed(capsys, monkeypatch, str(one), str(two))
    assert "one: 3 episodes lost to faults" in output and f"two: {two} is not finished" in output


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", once([True]))
    for words, named, output in (
        ([str(one)], [], "two evaluations or more"),
        ([str(one), str(one)], [], "its own name"),
        ([str(one), __file__], [], "holds no evaluation"),
        ([str(one), str(tmp_path)], [], "holds no evaluation"),
        ([str(one)], [f"{one}"], "NAME=FOLDER"),
    ):
        with pytest.raises(SetupError, match=output):
            compare.groups(words, named)


@pytest.mark.slow
def test_on_some_of_the_tasks_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = evaluation(tmp_path / "one", once([number % 4 == 0 for number in range(40)]))
    two = evaluation(tmp_path / "two", once([number % 5 == 0 for number in range(40)]))
    words = ["--only", "t-1?", "--only", "t-3", "--out", str(tmp_path / "out")]
    printed(capsys, monkeypatch, str(one), str(two), *words)
    rates = table(tmp_path / "out", "rates")
    assert [rates[name]["tasks"] for name in ("one", "two")] == ["11", "11"]
    assert float(rates["one"]["rate"]) == 2 / 11  # 12 and 16
    with pytest.raises(SetupError, match="no task whose id matches u-\\*"):
        compare.groups([str(one), str(two)], [], ("u-*",))


@pytest.mark.slow
def test_the_outcomes_alone_give_the_same_and_take_more_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    folders: dict[str, list[str]] = {}
    for name, share in (("a", 0.3), ("b", 0.6)):
        for seed in range(3):
            samples: list[list[bool | None]] = [[bool(one)] for one in rng.random(20) < share]
            samples[4] = [None if seed == 0 else True]
            folders.setdefault(name, []).append(
                str(evaluation(tmp_path / f"{name}{seed}", samples, seed))
            )

    def compared(out: str, seeds: slice, *files: str) -> dict[str, dict[str, str]]:
        words = [f"{name}={','.join(own[seeds])}" for name, own in folders.items() if own[seeds]]
        options = [word for group in words for word in ("--group", group)]
        printed(capsys, monkeypatch, *files, *options, "--out", str(tmp_path / out))
        return table(tmp_path / out, "differences")

    everything = compared("all", slice(None))
    compared("two", slice(2))
    file = str(tmp_path / "two" / "outcomes.csv")
    assert compared("added", slice(2, None), file) == everything
    kept = str(tmp_path / "added" / "outcomes.csv")
    assert Path(kept).read_text() == (tmp_path / "all" / "outcomes.csv").read_text()
    assert compared("kept", slice(0), kept) == everything
    rates = table(tmp_path / "kept", "rates")
    assert rates["a"]["rate"] == table(tmp_path / "all", "rates")["a"]["rate"]
    assert rates["a"]["turns"] == "", "that is not known any more"

    assert "a: 1 episodes lost to faults" in printed(capsys, monkeypatch, kept)
    output = printed(capsys, monkeypatch, kept, "--against", "b", "--only", "t-1?")
    assert "Against b" in output and "turns" not in output and "gained" not in output
    with pytest.raises(SetupError, match="there are a, b"):
        compare.groups([kept], [], against="c")
    found = compare.groups([kept, f"c={folders['a'][0]}"], [], against="b", who=["c"])
    assert [group.name for group in found] == ["b", "c"], "so that Holm counts one row"
    with pytest.raises(SetupError, match="--who d: there are a, b, c"):
        compare.groups([kept, f"c={folders['a'][0]}"], [], who=["d"])
    with pytest.raises(SetupError, match="no task whose id matches u-\\*"):
        compare.groups([kept], [], ("u-*",))
    (tmp_path / "other.csv").write_text("name,value\nx,1\n")
    with pytest.raises(SetupError, match=r"not an outcomes\.csv"):
        compare.groups([str(tmp_path / "other.csv")], [])
