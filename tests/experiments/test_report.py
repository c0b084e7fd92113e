"""The pages are opened in a real browser: what counts is what a reader sees and can do."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.report import charts, figure_data, write_comparison, write_report
from experiments.report.__main__ import _write
from experiments.report.contact_sheet import painted
from experiments.report.groups import grouped, runs_of_folders
from experiments.report.html import cell, clock, p_value
from experiments.report.publish import count_failures
from experiments.results.statistics import bootstrap_difference, bootstrap_mean, holm, mcnemar
from experiments.results.tables import Curve, Table
from experiments.runs.folders import RunFolder
from experiments.runs.reader import read_run
from swe_gym_env.errors import SetupError
from tests.experiments.sample_run import HOSTILE, sample_run

MEASURED = Table(
    name="divergence",
    title="Divergence <b>by turn</b>",
    columns=("turn", "who", "nats", "low", "high"),
    rows=[(t, who, 0.1 * t, 0.05 * t, 0.2 * t) for t in range(4) for who in ("a", HOSTILE)],
    note=HOSTILE,
    curve=Curve("turn", "nats", "who", "low", "high"),
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sample_run(tmp_path_factory.mktemp("runs") / "dagger-0123456789")
    (folder / "analysis").mkdir()
    (folder / "analysis" / "tables.json").write_text(json.dumps([asdict(MEASURED)]))
    return folder


@pytest.fixture(scope="module")
def report(run_folder: Path) -> Path:
    return write_report(run_folder)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds, one of which failed and one that was never begun."""
    runs = tmp_path_factory.mktemp("runs")
    cells = []
    for number, (method, seed) in enumerate([(m, s) for m in ("one", "two") for s in (0, 1)]):
        folder = sample_run(runs / f"{method}-{seed}", tasks=20, training=3, seed=number)
        (folder / "summary.json").write_text("{}")
        overrides = [f"algorithm={method}", f"seed={seed}", "rounds=2"]
        cells.append({"overrides": overrides, "run": folder.name, "status": "finished"})
    for name, status, error in (
        ("two-2", "failed", "SetupError: no <b>"),
        ("two-3", "waiting", ""),
    ):
        overrides = ["algorithm=two", f"seed={name[-1]}", "rounds=2"]
        cells.append({"overrides": overrides, "run": name, "status": status, "error": error})
    folder = runs / "sweep-01"
    folder.mkdir()
    command = "python -m experiments.run -m algorithm=one,two"
    (folder / "sweep.json").write_text(json.dumps({"command": command, "cells": cells}))
    return folder


@pytest.fixture
def page(browser) -> Iterator:
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="light")
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: faults.append(request.url) if "http" in request.url else 0)
    yield page
    page.close()
    assert not faults


def rows(page, table: str) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator(f"#{table} tbody tr").all()]


def test_numbers_are_those_of_the_episodes(run_folder: Path, report: Path, page) -> None:
    page.goto(report.as_uri())
    run = read_run(run_folder)
    first, sft, last = run.measured
    assert [row[0] for row in rows(page, "results")] == [
        "untrained student",
        "SFT (iteration 0)",
        "after round 2",
    ]
    shown = rows(page, "results")[-1]
    assert shown[1:4] == [str(last.rate.resolved), "60", f"{last.rate.rate * 100:.1f} %"]
    assert shown[4] == f"{last.rate.low * 100:.1f} % to {last.rate.high * 100:.1f} %"
    test = mcnemar(sft.verdicts, last.verdicts)
    assert rows(page, "paired")[-1][3:] == [str(test.gained), str(test.lost), p_value(test.p)]
    finished = sum(e.stop_reason == "finished" for e in last.episodes) / 60
    assert rows(page, "behavior")[-1][1] == f"{finished * 100:.1f} %"
    assert rows(page, "endings")[0] == ["resolved", "–", str(sft.rate.resolved), shown[1]]
    played = run.rounds[2].episodes
    resolved = sum(e.outcome.resolved for e in played)
    assert rows(page, "rounds")[2][:4] == ["2", "24", str(resolved), "30.0 %"]
    assert rows(page, "cost")[-1][:4] == ["all", "72", "288", "300"]
    captions = page.locator("figcaption").all_inner_texts()
    assert captions[:3] == ["By round", "By training episodes", "By teacher calls"]
    assert page.locator("a", has_text="Read the episodes").get_attribute("href") == "episodes.html"
    assert first.rate.resolved == 0 and page.evaluate("scrollY") == 0


def test_hostile_text_stays_text(report: Path, page) -> None:
    page.goto(report.as_uri())
    source = report.read_text("utf-8")
    assert source.count("<script") == 1 and source.count("</script>") == 1
    page.get_by_text("Resolved configuration").click()
    assert "</pre><script>" in page.locator("details pre.code").first.inner_text()
    section = page.locator("#divergence")
    assert section.locator("h2").inner_text() == "Divergence <b>by turn</b>"
    assert section.locator("figure svg").count() == 1
    assert "onerror='window.pwned = 1'" in section.locator(".note").inner_text()
    assert page.evaluate("window.pwned") is None and page.locator("img").count() == 0


def test_dark_light_and_a_phone(report: Path, page) -> None:
    from playwright.sync_api import expect

    page.goto(report.as_uri())
    line = page.locator("figure svg [stroke='var(--student)']").first
    light = line.evaluate("e => getComputedStyle(e).stroke")
    assert light == "rgb(32, 88, 156)"  # of palette.css
    page.emulate_media(color_scheme="dark")
    expect(line).not_to_have_css("stroke", light)
    page.locator("#theme").click()
    expect(line).to_have_css("stroke", light)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_pictures_and_csv_stand_beside_the_page(run_folder: Path, report: Path) -> None:
    assert (run_folder / "report.png").read_bytes().startswith(b"\x89PNG")
    with (run_folder / "tables" / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [row["round"] for row in curve] == ["-1", "0", "2"]
    assert [row["teacher calls"] for row in curve] == ["0", "100", "300"]
    assert [row["training episodes"] for row in curve] == ["0", "24", "72"]
    last = read_run(run_folder).measured[-1].rate
    assert float(curve[-1]["low"]) == last.low
    assert (run_folder / "tables" / "divergence.csv").exists()


def test_a_sweep_is_one_table_over_seeds(sweep: Path, page) -> None:
    written = write_comparison([sweep], sweep)
    page.goto(written.as_uri())
    found = {}
    for method in ("one", "two"):
        runs = [read_run(sweep.parent / f"{method}-{seed}").measured[-1] for seed in (0, 1)]
        tasks = sorted(runs[0].verdicts)
        found[method] = np.array([[float(e.verdicts[task]) for task in tasks] for e in runs])
    means = [bootstrap_mean(matrix) for matrix in found.values()]
    assert [row[:4] for row in rows(page, "methods")] == [
        [name, "2", "20", f"{mean.mean * 100:.1f} %"]
        for name, mean in zip(found, means, strict=True)
    ]
    low, high = means[1].low * 100, means[1].high * 100
    assert rows(page, "methods")[1][4] == f"{low:.1f} % to {high:.1f} %"
    difference = bootstrap_difference(found["two"], found["one"])
    (row,) = rows(page, "differences")
    assert row[2] == f"{difference.mean * 100:+.1f}".replace("-", "−")
    assert difference.p is not None and row[-1] == p_value(difference.p)
    assert rows(page, "absent") == [
        ["two", "2", "two-2", "failed", "SetupError: no <b>"],
        ["two", "3", "two-3", "waiting", ""],
    ]
    assert "4 of 6 runs finished" in page.locator("h1").inner_text()
    assert "makes no claim" in page.locator(".lead").inner_text(), "two seeds are too few"
    with (sweep / "tables/shares.csv").open() as file:
        shares = list(csv.DictReader(file))
    planned = [float(row["share"]) for row in shares if row["which"] == "planned"]
    assert planned == [1.0, 0.6, 0.3] * 2
    assert "-m algorithm=one,two" in page.locator("dd").first.inner_text()


@pytest.mark.slow
def test_failure_kinds_take_the_place_of_endings_where_they_were_counted(sweep: Path) -> None:
    runs = shutil.copytree(sweep.parent, sweep.parent.with_name("counted"))
    shares = {}
    for method in ("one", "two"):
        for seed in (0, 1):
            count_failures(runs / f"{method}-{seed}", [])
            last = read_run(runs / f"{method}-{seed}").measured[-1]
            shares.setdefault(method, []).append(last.rate.resolved / 40)
    write_comparison([runs / sweep.name], runs / sweep.name)
    with (runs / sweep.name / "tables/failure_kinds.csv").open() as file:
        first, *others = csv.DictReader(file)
    assert first["kind"] == "resolved" and others
    for method, own in shares.items():
        assert float(first[method]) == pytest.approx(sum(own))
        assert sum(float(row[method] or 0) for row in (first, *others)) == pytest.approx(1)
    write_report(runs / "one-0")
    with (runs / "one-0/tables/failure_kinds.csv").open() as file:
        counted = list(csv.DictReader(file))
    assert counted[0]["after round 2"] == str(read_run(runs / "one-0").measured[-1].rate.resolved)
    assert sum(int(row["untrained student"] or 0) for row in counted) == 20


@pytest.mark.e2e
def test_run_folders_are_distinguished_by_their_configuration(sweep: Path, tmp_path: Path) -> None:
    folders = []
    for method in ("one", "two", "three"):
        for seed in (0, 1):
            folder = tmp_path / f"{method}-{seed}"
            shutil.copytree(sweep.parent / f"{'two' if method == 'two' else 'one'}-{seed}", folder)
            config = {"seed": seed, "algorithm": {"name": "dagger", "keep": method}}
            config["paths"] = {"runs": str(seed)}
            (folder / "config.yaml").write_text(json.dumps(config))
            folders.append(folder)
    command = [sys.executable, "-m", "experiments.report", *map(str, folders)]
    command += ["--out", str(tmp_path / "out"), "--baseline", "keep=two"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/tables/differences.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["method"] for row in found] == ["keep=one", "keep=three"]
    assert [float(row["p Holm"]) for row in found] == holm([float(row["p"]) for row in found])
    source = (tmp_path / "out/report.html").read_text("utf-8")
    # forests; small multiples on three axes, and of the teacher's shares
    assert source.count("<figure") == 2 + 3 * 3 + 3
    assert "Configuration: keep=three, seed 0" in source
    with pytest.raises(SetupError, match="there are 'keep=one', 'keep=two'"):
        write_comparison(folders, tmp_path / "out", "sft")


def test_a_claim_takes_seeds_and_tasks(tmp_path: Path, page) -> None:
    folders = []
    for method, resolved in (("one", 0.2), ("two", 0.9)):
        for seed in range(3):
            folder = sample_run(tmp_path / f"{method}-{seed}", tasks=60, training=1, seed=seed)
            config = {"seed": seed, "algorithm": {"name": method}}
            (folder / "config.yaml").write_text(json.dumps(config))
            (folder / "summary.json").write_text("{}")
            last = sorted((folder / "evaluations").glob("round_*"))[-1] / "episodes.jsonl"
            episodes = [json.loads(line) for line in last.read_text().splitlines()]
            for number, episode in enumerate(episodes):
                good = number < resolved * len(episodes)
                episode["outcome"]["status"] = "resolved" if good else "unresolved"
            last.write_text("".join(json.dumps(episode) + "\n" for episode in episodes))
            folders.append(folder)
    page.goto(write_comparison(folders, tmp_path / "out").as_uri())
    assert "two +70.0 points" in page.locator(".lead").inner_text()


def test_methods_that_differ_in_much_keep_short_and_separate_names(tmp_path: Path) -> None:
    for number in range(3):
        folder = sample_run(tmp_path / f"run-{number}", tasks=4, training=2)
        settings = "\n".join(f"option{k}: {number * (k > 3 or number > 1)}" for k in range(9))
        (folder / "config.yaml").write_text(f"seed: 0\nalgorithm: {{name: one}}\n{settings}\n")
    (tmp_path / "teacher-0").mkdir()
    (tmp_path / "teacher-0" / "config.yaml").write_text("seed: 0\n")
    folders = [*(tmp_path / f"run-{number}" for number in range(3)), tmp_path / "teacher-0"]
    labels = [group.label for group in grouped(runs_of_folders(folders))]
    assert labels == [
        "option0=0 option1=0 option2=0 and 6 more",
        "option0=0 option1=0 option2=0 and 6 more (2)",
        "option0=2 option1=2 option2=2 and 6 more",
    ]


def test_what_a_killed_run_left(tmp_path: Path, page) -> None:
    folder = sample_run(tmp_path / "run", tasks=8, training=4)
    lines = folder / "evaluations/round_002/episodes.jsonl"
    lines.write_bytes(lines.read_bytes()[:-100])
    (folder / "phases.json").unlink()
    shutil.rmtree(folder / "rounds")
    assert len(read_run(folder).measured[-1].episodes) == 7
    shared = sample_run(tmp_path / "iteration0-1", tasks=4, training=2)
    (folder / "rounds").mkdir()
    (folder / "rounds" / "round_000").symlink_to(shared / "rounds" / "round_000")
    assert read_run(folder).phases["train round_000"] == 160.0, "of iteration 0, which runs share"
    shutil.rmtree(folder / "rounds")
    page.goto(write_report(folder).as_uri())
    assert "Fewer than 50 tasks" in page.locator(".lead").inner_text()
    empty = tmp_path / "empty"
    empty.mkdir()
    page.goto(write_report(empty).as_uri())
    assert "Not measured yet" in page.locator("h1").inner_text()
    with pytest.raises(SetupError, match="holds no run, evaluation or sweep"):
        _write([tmp_path], None, None)
    write_comparison([folder, sample_run(tmp_path / "other", tasks=4, training=2)], tmp_path / "c")
    assert "No run has finished yet" in (tmp_path / "c/report.html").read_text("utf-8")


def test_a_run_records_what_made_it(tmp_path: Path, page) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(OmegaConf.create({"seed": 0}))
    folder.start(OmegaConf.create({"seed": 0}))
    (one,) = json.loads((folder.path / "versions.json").read_text())
    assert one["packages"]["numpy"] == np.__version__ and re.match(r"3\.\d+", one["python"])
    (folder.path / "versions.json").write_text(json.dumps([{**one, "commit": "0" * 40}]))
    folder.start(OmegaConf.create({"seed": 0}))  # with another commit
    page.goto(write_report(folder.path).as_uri())
    assert {"commit", "commit, start 2"} <= set(page.locator("dt").all_inner_texts())
    assert f"numpy {np.__version__}" in page.locator("dl").inner_text()


@pytest.mark.parametrize("count", [12, 14])  # with bars and with a band for the intervals
def test_words_on_the_x_axis_are_connected_in_the_order_of_the_table(count: int) -> None:
    rows = [(f"round {n}", n / 20, n / 20 - 0.05, n / 20 + 0.05) for n in range(count)]
    drawn = Curve("round", "share", low="low", high="high")
    svg = charts.curve(Table("n", "t", ("round", "share", "low", "high"), rows, curve=drawn))
    (line,) = re.findall(r"mark-line[^>]*>.*?</g>", svg)
    places = [float(x) for x in re.findall(r"[ML](-?[\d.]+),", line)]
    assert len(places) == count and places == sorted(places)
    assert re.findall(r">(round \d+)<", svg) == [row[0] for row in rows if f">{row[0]}<" in svg]


def test_small_parts() -> None:
    assert figure_data.rounded(0, 0.67) == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert figure_data.rounded(-0.12, 0.3) == [-0.2, 0.0, 0.2, 0.4]
    assert figure_data.rounded(0, 0) == [0, 1.0]
    assert len(figure_data.short(HOSTILE)) == 22 and figure_data.short("dagger") == "dagger"
    assert figure_data.apart([0.0, 0.0, 5.0], 1.0) == [-0.5, 0.5, 5.0]
    moved = figure_data.apart([3.0, 1.0, 1.1, 2.9, 1.2], 1.0)
    assert np.all(np.diff(np.sort(moved)) > 1 - 1e-9) and np.argsort(moved).tolist() == [
        1,
        2,
        4,
        3,
        0,
    ]
    assert clock(59.6) == "1:00" and clock(3725) == "1:02:05"
    assert p_value(0.04) == "0.040" and p_value(2.4e-10) == "2·10⁻¹⁰"
    assert cell(None) == "–" and cell(-0.034, "difference", ("difference",)) == "−3.4"
    assert cell(float("nan")) == "–" and cell(12345) == "12\u202f345"
    assert painted("var(--paper)") == "#fcfbf8"
    assert painted("var(--paper)", "dark") == "#151618"
