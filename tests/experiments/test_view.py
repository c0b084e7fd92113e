"""The episode reader is opened in a real browser: what counts is what a reader sees and can do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.runs.episode_sets import find as episode_sets
from experiments.view import write_view
from experiments.view.data import repository, row
from experiments.view.follow import refuse_sweep
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Annotation, Episode, Outcome, ToolCall, Turn
from tests.experiments.sample_run import sample_run

SIZE = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("runs") / "dagger-0123456789")


@pytest.fixture(scope="module")
def view(run_folder: Path) -> Path:
    return write_view(run_folder)


@pytest.fixture
def page(browser, view: Path) -> Iterator:
    page = browser.new_page(viewport=SIZE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if "http" in request.url else 0)
    page.goto(view.as_uri())
    page.evaluate("ready")
    yield page
    page.close()
    assert not faults


def choose(page, name: str, value: str) -> None:
    page.evaluate("([name, value]) => choose(name, value)", [name, value])


def shown(page) -> int:
    return page.evaluate("view.shown.length")


def test_hostile_text_stays_text(page, view: Path) -> None:
    source = view.read_text("utf-8")
    assert "window.pwned" not in source  # it lies there compressed, and the list has no such text
    page.evaluate("open(episodes.find((e) => e.task.endsWith('__000')))")
    text = page.locator("#episode").inner_text()
    assert "<img src=x onerror='window.pwned = 1'>" in text and "{{ 7 * 7 }}" in text
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("view.body.final.includes('</script>')")


def test_every_episode_can_be_read(page, run_folder: Path) -> None:
    choose(page, "set", "*")
    total = sum(len(one.read()[0]) for one in episode_sets(run_folder))
    assert shown(page) == total == 252
    assert page.locator("#rows .row").count() < 40  # the others are not in the document
    seen = page.evaluate(
        """async () => {
          const seen = [];
          await open(episodes[0]);
          for (;;) {
            const turns = document.querySelectorAll("#episode .turn:not(.end)").length;
            seen.push([nameOf(view.current), turns]);
            const before = view.current;
            await step(1);
            if (view.current === before) return seen;
          }
        }"""
    )
    assert len({name for name, _ in seen}) == total and {turns for _, turns in seen} == {4}
    mark = page.locator("#rows [aria-selected=true]")
    here, pane = mark.bounding_box(), page.locator("#list").bounding_box()
    assert pane["y"] <= here["y"] <= pane["y"] + pane["height"] - here["height"] + 1
    assert page.locator("#list").get_attribute("aria-activedescendant") == mark.get_attribute("id")


def test_filter_search_and_sort(page) -> None:
    assert shown(page) == 60 and page.locator("#count").inner_text() == "60 episodes"
    page.keyboard.press("f")
    resolved = shown(page)
    assert 0 < resolved < 60 and page.locator("#rows .row:not(.resolved)").count() == 0
    page.keyboard.press("f")
    assert shown(page) == 60 - resolved
    page.keyboard.press("f")
    page.keyboard.press("/")
    page.keyboard.type("OFF_BY_ONE__01")
    page.wait_for_selector("#count:text-is('5 episodes')")
    page.fill("#search", "window.pwned")  # only in what one episode said
    page.wait_for_selector("#count:text-is('1 episode')")
    page.fill("#search", "no such words")
    page.get_by_text("No episode fits").wait_for()
    page.fill("#search", "")
    choose(page, "set", "*")
    choose(page, "who", "apart")
    assert 0 < shown(page) < 72
    choose(page, "who", "both")
    assert page.evaluate("view.shown.every((e) => e.teacher > 0 && e.teacher < 4)")
    choose(page, "sort", "divergence, earliest")
    places = page.evaluate("view.shown.map((e) => e.divergence)")
    known = [place for place in places if place >= 0]
    assert known and places[: len(known)] == sorted(known)


def test_label_beside_the_turn_and_the_patch_as_it_grows(page) -> None:
    choose(page, "set", "5")  # training, round 2
    choose(page, "who", "both")
    page.keyboard.press("d")
    e = page.evaluate("view.current")
    here = page.locator("#episode .turn[aria-current]")
    assert here.locator(".no").inner_text().split()[0] == str(e["divergence"] + 1)
    assert "git diff" in here.locator(".act.label").inner_text()
    taught = page.locator("#episode .act.teacher:not(.label)")
    assert taught.count() == e["teacher"]
    page.evaluate("toTurn(0)")
    assert "Nothing is changed yet" in page.locator("#patch").inner_text()
    page.keyboard.press("n")
    assert page.locator("#patch .fresh").count() == 2
    assert "after turn 2 +1 −1" in page.locator("#patch h3").inner_text()
    page.keyboard.press("n")
    assert page.locator("#patch .fresh").count() == 0
    assert page.locator("#patch .add").inner_text() == "+    return islice(seq, n, None)"


def test_two_evaluations_of_a_task_side_by_side_and_its_link(page, view: Path) -> None:
    page.keyboard.press("b")
    page.locator("#episode .act.other").first.wait_for()
    assert page.locator("#episode .act.other").count() == 4
    link = page.evaluate("toTurn(2), location.hash")
    page.goto("about:blank")
    page.goto(view.as_uri() + link)
    page.evaluate("ready")
    assert page.locator("#episode .act.other").count() == 4
    assert page.locator("#episode .turn[aria-current] .no").inner_text().startswith("3")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.get_by_text("written without tokens").wait_for()


def test_dark_light_and_a_telephone(page) -> None:
    from playwright.sync_api import expect

    color = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(color)
    page.emulate_media(color_scheme="dark")
    # (the page's policy forbids the eval that wait_for_function polls with)
    expect(page.locator("html")).not_to_have_css("background-color", light)
    page.locator("#theme").click()
    assert page.evaluate(color) == light
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("#rows .row").nth(3).click()
    expect(page.locator("#episode h2")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#episode details.inline").first.is_visible()
    page.get_by_role("button", name="all episodes").click()
    expect(page.locator("#list")).to_be_visible()


def test_a_thousand_episodes_open_without_stalling(browser, tmp_path: Path) -> None:
    big = write_view(sample_run(tmp_path / "big", tasks=300, training=100))
    page = browser.new_page(viewport=SIZE)
    page.goto(big.as_uri())
    page.evaluate("ready")
    assert page.evaluate("episodes.length") == 1200
    inflated, chunks = page.evaluate("[bodies.size, episodes.at(-1).chunk]")
    assert inflated == 1 and chunks > 5  # of what lies in the page, what is open and no more
    choose(page, "set", "*")
    elapsed = page.evaluate(
        """async () => {
          const began = performance.now();
          for (let k = 0; k < 10; k++) await step(1);
          await choose("outcome", "resolved");
          return performance.now() - began;
        }"""
    )
    assert elapsed < 20_000  # on a busy machine; docs/research/benchmarks.md has what was measured
    choose(page, "query", "islice")
    assert 0 < shown(page) < 1200 and page.evaluate("bodies.size") <= 12
    assert page.locator("#rows .row").count() < 40
    page.close()


def test_folders_of_many_kinds(run_folder: Path, tmp_path: Path) -> None:
    names = [one.name for one in episode_sets(run_folder)]
    assert names[:3] == ["untrained student", "SFT (iteration 0)", "after round 2"]
    assert names[3:] == [f"training, round {index}" for index in range(3)]
    alone = tmp_path / "expert"
    shutil.copytree(run_folder / "evaluations" / "untrained", alone)
    assert [one.name for one in episode_sets(alone)] == ["expert"]
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        shutil.copytree(run_folder, runs / name)
    shutil.rmtree(runs / "b" / "rounds" / "round_000")
    (runs / "b" / "rounds" / "round_000").symlink_to("../../a/rounds/round_000")
    names = [one.name for one in episode_sets(runs)]
    assert "b: after round 2" in names and names.count("a: training, round 0") == 1
    assert len(names) == 11  # what both share is there once
    sweep = runs / "sweep-01"
    sweep.mkdir()
    cells = [{"run": "b", "status": "running"}, {"run": "c", "status": "waiting"}]
    (sweep / "sweep.json").write_text(json.dumps({"cells": cells}))
    names = [one.name for one in episode_sets(sweep)]
    assert "b: after round 2" in names and len(names) == 6
    assert str(runs / "b") in refuse_sweep(sweep) and not refuse_sweep(runs / "b")
    lines = alone / "episodes.jsonl"
    lines.write_bytes(lines.read_bytes()[:-100])
    assert write_view(alone) == alone / "episodes.html"
    with pytest.raises(SetupError, match=r"holds no episodes\.jsonl"):
        write_view(tmp_path / "nothing")


def test_the_first_divergence_is_of_actions(tmp_path: Path) -> None:
    def output(thought: str, command: str) -> tuple[str, ToolCall]:
        return f"{thought}\n```bash\n{command}\n```", ToolCall(
            "bash", {"command": command}, thought
        )

    turns = [Turn("", "student", *output("I look.", "ls")) for _ in range(3)]
    e = Episode("x/0", "django__django-11099", 0, 0, 0, "", tuple(turns), Outcome("resolved"), "")
    words, other = output("Now I look.", "ls"), output("I look.", "cat a")
    labels = {
        ("x/0", 0): [Annotation("x/0", 0, "expert", *words)],
        ("x/0", 1): [Annotation("x/0", 1, "expert", None, error="timeout")],
        ("x/0", 2): [Annotation("x/0", 2, "expert", *other)],
    }
    assert row(e, labels)["divergence"] == 2 and row(e, {})["divergence"] == -1
    assert json.loads(json.dumps(row(e, labels)))["repository"] == "django/django"
    assert repository("pypi__funcy-851fa492") == "funcy"
    assert repository("oauthlib__oauthlib.1fd52536.combine_file__09vlzwgc") == "oauthlib/oauthlib"
    assert repository("calc-3") == "calc-3"
