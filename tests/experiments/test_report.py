"""The report is opened in a real browser: what counts is what a reader sees and can do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.report import charts, clock, p_value, write_report
from experiments.report.data import read_run, reader_rows
from tests.experiments.sample_run import HOSTILE, sample_run

CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("runs") / "dagger-0123456789")


@pytest.fixture(scope="module")
def report(run_folder: Path) -> Path:
    return write_report(run_folder)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, report: Path) -> Iterator:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if "http" in request.url else 0)
    page.goto(report.as_uri())
    yield page
    page.close()
    assert not faults


def test_numbers_are_those_of_the_episodes(run_folder: Path, page) -> None:
    run = read_run(run_folder)
    assert [row.name for row in run.evaluations] == [
        "untrained student",
        "SFT (iteration 0)",
        "after round 2",
    ]
    last = run.evaluations[-1]
    cells = page.locator(".result tbody tr").last.locator("td").all_inner_texts()
    assert cells[1] == f"{last.rate.resolved} of 60"
    assert cells[2] == f"{last.rate.rate * 100:.1f} %"
    assert last.against and cells[5] == str(last.against.gained)
    assert page.evaluate("scrollY") == 0
    assert page.locator("figure").count() == 3
    assert "planned" in page.locator("figure").nth(1).inner_text()
    ended = page.locator("section", has=page.get_by_text("How episodes ended")).inner_text()
    assert re.search(rf"resolved\t–\t\d+\t{last.rate.resolved}\n", ended)


def test_hostile_text_stays_text(page, report: Path) -> None:
    source = report.read_text("utf-8")
    assert source.count("<script") == 2 and source.count("</script>") == 2
    page.locator("#list li").first.click()
    shown = page.locator("#episode").inner_text()
    assert "<img src=x onerror='window.pwned = 1'>" in shown and "{{ 7 * 7 }}" in shown
    page.get_by_text("Resolved configuration").click()
    assert "</pre><script>" in page.locator("details pre.code").first.inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("episodes[0].final.includes('</script>')")


def test_every_evaluation_episode_can_be_read(page) -> None:
    page.select_option("#set", "*")
    page.locator("#list li").first.click()
    seen = set()
    for _ in range(180):
        seen.add(page.evaluate("view.current.at"))
        assert page.locator("#episode .turn").count() in (4, 5)  # with what was seen last
        page.keyboard.press("j")
    assert seen == set(range(180))
    page.keyboard.press("k")
    assert page.evaluate("view.current.at") == 179
    assert page.locator("#list [aria-current]").is_visible()
    here = page.locator("#list [aria-current]").bounding_box()
    pane = page.locator("#list").bounding_box()
    assert pane["y"] <= here["y"] <= pane["y"] + pane["height"] - here["height"] + 1


def test_filter_and_search(page) -> None:
    rows = page.locator("#list li")
    assert rows.count() == 60
    page.get_by_role("button", name="resolved", exact=True).click()
    resolved = rows.count()
    assert 0 < resolved < 60 and page.locator("#list li:not(.resolved)").count() == 0
    page.keyboard.press("f")
    assert rows.count() == 60 - resolved and page.locator("#list li.resolved").count() == 0
    page.keyboard.press("f")
    page.keyboard.press("/")
    page.keyboard.type("OFF_BY_ONE__01")
    assert rows.count() == 5
    page.fill("#search", "no such words")
    assert rows.count() == 0 and "No episode fits" in page.locator("#episode").inner_text()


def test_training_episode_shows_the_label_beside_the_action(page, run_folder: Path) -> None:
    page.select_option("#set", "training, round 2")
    data = [row for row in reader_rows(read_run(run_folder)) if row["set"] == "training, round 2"]
    page.locator("#list li").nth(1).click()
    turns = page.locator("#episode .turn")
    for number, turn in enumerate(data[1]["turns"]):
        beside = turns.nth(number).locator(".act.label")
        if turn["who"] == "teacher":
            assert beside.count() == 0
        else:
            assert "git diff" in beside.inner_text()
    assert page.locator("#episode .diff .add").inner_text() == "+    return islice(seq, n, None)"


def test_links_dark_and_light(page, report: Path) -> None:
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    # (the page's policy forbids the eval that wait_for_function polls with)
    from playwright.sync_api import expect

    expect(page.locator("html")).not_to_have_css("background-color", light)
    page.locator("#theme").click()
    assert page.evaluate(colour) == light
    page.goto("about:blank")
    page.goto(report.as_uri() + "#episode-77")
    assert page.evaluate("view.current.at") == 77


def test_a_thousand_episodes_open_fast(browser, tmp_path: Path) -> None:
    big = write_report(sample_run(tmp_path / "big", tasks=300, training=100))
    page = browser.new_page()
    page.goto(big.as_uri())
    assert page.evaluate("episodes.length") == 1200
    elapsed = page.evaluate(
        "() => { const t = performance.now(); $('set').value = view.set = '*'; relist();"
        " for (let k = 0; k < 50; k++) step(1); return performance.now() - t; }"
    )
    assert elapsed < 5000
    page.close()


def test_what_a_killed_run_left(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "run", tasks=8, training=4)
    lines = folder / "evaluations/round_002/episodes.jsonl"
    lines.write_bytes(lines.read_bytes()[:-100])
    (folder / "phases.json").unlink()
    shutil.rmtree(folder / "rounds")
    assert len(read_run(folder).evaluations[-1].episodes) == 7
    assert "Fewer than 50 tasks" in write_report(folder).read_text("utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "Not measured yet" in write_report(empty).read_text("utf-8")


def test_small_parts() -> None:
    assert charts.ticks(0.67) == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert charts.ticks(0) == [0.0, 1.0]
    assert charts.smoothed([4, 2, 0], 2) == [4, 3, 1]
    assert clock(59.6) == "1:00" and clock(3725) == "1:02:05"
    assert p_value(0.04) == "0.040" and p_value(2.4e-10) == "2·10⁻¹⁰"
    assert HOSTILE.startswith("</script>")
