"""The token view against the trees that a round is trained on, stream by stream."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from algorithms.engine.checkpoint import load_tokenizer
from algorithms.engine.examples import example_trees
from algorithms.engine.rendering import Renderer
from experiments.console.cli import CONF
from experiments.pipeline.stored import StoredTraining
from experiments.runs.episode_sets import find as episode_sets
from experiments.view import write_view
from experiments.view.data import body
from experiments.view.tokens import RunTokens, pieces
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Episode, Outcome, ToolCall, Turn
from tests.algorithms.conftest import smollm2 as smollm2
from tests.algorithms.conftest import tiny_model
from tests.algorithms.conftest import tokenizer as tokenizer

STREAMS = ("ce", "pg", "kl")


def stored_run(folder: Path, tokenizer, algorithm: str, *more: str) -> Path:
    """Two rounds of two tries at two tasks; the student's turns with the ids it sampled."""
    model = folder / "model"
    tiny_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"algorithm={algorithm}", f"model.path={model}", *more])
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    for index in (0, 1):
        for number in range(4):
            folder = RoundFolder(run / "rounds" / f"round_{index:03d}")
            teacher_too = index == 0 or algorithm == "dagger"
            _play(folder, tokenizer, index, number, teacher_too)
    return run


def _play(folder: RoundFolder, tokenizer, index: int, number: int, teacher_too: bool) -> None:
    name = f"calc-{number // 2}/{index}/{number % 2}/0"
    turns, labels = [], []
    for n, who in enumerate(("student", "teacher" if teacher_too else "student", "student")):
        command = f"sed -n {number}p calc.py"
        text = f"I look.\n```bash\n{command}\n```"
        call = ToolCall("bash", {"command": command}, "I look.")
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        own = who == "student" and index > 0
        turns.append(
            Turn(
                f"seen {n}",
                "teacher" if index == 0 else who,  # type: ignore[arg-type]
                text,
                call,
                token_ids=tuple(ids) if own else (),
                logprobs=tuple(-0.01 * k for k in range(len(ids))) if own else (),
            )
        )
        other = f"I look.\n```bash\nsed -n 9p other{n}.py\n```"
        label = text if not own or n == 2 else other
        labels.append(Annotation(name, n, "expert", label, call, executed=not own))
    outcome = Outcome("resolved" if number % 2 else "unresolved", float(number % 2))
    episode = Episode(
        name, f"calc-{number // 2}", 0, index, number % 2, "Fix it.", tuple(turns), outcome,
        "finished",
    )  # fmt: skip
    folder.append(episode, labels)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dagger", "grpo"])
def test_weights_are_those_of_the_trees(tmp_path: Path, tokenizer, algorithm: str) -> None:
    more = ["algorithm.repeats=2"] if algorithm == "grpo" else []
    run = stored_run(tmp_path, tokenizer, algorithm, *more)
    found = RunTokens(run, StoredTraining)
    assert found.missing == ""
    (newest,) = (one for one in episode_sets(run) if one.training and one.round == 1)
    episodes, labels = newest.read()
    trained = found.trained(1)
    shown: Counter[tuple] = Counter()
    for episode in episodes:
        row = body(episode, labels)
        found.add(row, episode, trained.get(episode.episode_id))
        assert row["trained"]
        for number, turn in enumerate(row["turns"]):
            for track in (turn["tokens"], *(label["tokens"] for label in turn["labels"])):
                assert track["text"] == pieces(found.renderer, track["ids"])
                for place, token in enumerate(track["ids"]):
                    each = tuple(track.get(s, [0.0] * 999)[place] for s in STREAMS)
                    if any(each):
                        shown[number, token, each] += 1
            output = "".join(turn["tokens"]["text"])
            assert output.startswith(turn["text"])
            if turn["who"] == "student":
                assert len(turn["tokens"]["logprobs"]) == len(turn["tokens"]["ids"])

    expected: Counter[tuple] = Counter()
    own = [each for each in StoredTraining(run).examples(1) if each.episode.round == 1]
    for tree in example_trees(own, found.renderer):
        weights = (tree.ce_weight, tree.pg_weight * tree.advantage, tree.kl_weight)
        for node in np.flatnonzero(tree.weight):
            each = tuple(float(f"{float(w[node]):.4g}") for w in weights)
            if any(each):
                expected[int(tree.segment[node]), int(tree.token_ids[node]), each] += 1
    assert expected and shown == expected


def test_the_page_shades_what_was_raised_and_what_was_lowered(
    tmp_path: Path, tokenizer, browser
) -> None:
    run = stored_run(tmp_path, tokenizer, "grpo", "algorithm.repeats=2")
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(write_view(run, tokens=StoredTraining).as_uri())
    page.evaluate("ready")
    page.evaluate("choose('set', '1')")
    page.keyboard.press("t")
    for number in range(4):
        page.evaluate("n => open(view.shown[n])", number)
        page.wait_for_function("n => view.current === view.shown[n] && view.body", arg=number)
        resolved = page.evaluate("view.current.status === 'resolved'")
        first = page.locator("#episode .turn").first
        text = "".join(first.locator(".tok").all_inner_texts()).replace("⏎\n", "\n")
        assert text.startswith(page.evaluate("view.body.turns[0].text"))
        own = "#episode .turn .act:not(.label) .tok"
        raised, lowered = (page.locator(own + way).count() for way in (".up", ".down"))
        every = page.locator(own).count()
        assert (raised, lowered) == ((every, 0) if resolved else (0, every))
        token = first.locator(".tok").first
        assert "policy gradient" in token.get_attribute("title")
        plain = "rgba(0, 0, 0, 0)"
        assert token.evaluate("e => getComputedStyle(e).backgroundColor") != plain
    page.close()
    assert not faults


def test_pieces_are_the_text(smollm2: Path) -> None:
    renderer = Renderer(load_tokenizer(smollm2))
    ids = [*renderer.encode("naïve 😀 日本\n\tx"), renderer.end_id]
    parts = pieces(renderer, ids)
    assert "".join(parts) == renderer.decode(ids) and len(parts) == len(ids)
    assert "" in parts and not any("\ufffd" in part for part in parts)


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    assert "belong to no run" in RunTokens(None, StoredTraining).missing
    (tmp_path / "config.yaml").write_text("model: {path: /gone, thinking: kept}\n")
    assert "cannot be loaded" in RunTokens(tmp_path, StoredTraining).missing
