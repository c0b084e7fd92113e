"""python -m experiments.export on stored rounds, read back as TRL and verl read them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from algorithms.engine.checkpoint import load_tokenizer
from algorithms.engine.examples import example_trees
from algorithms.engine.rendering import Renderer
from experiments import export
from experiments.pipeline.build import stored_context
from experiments.pipeline.round import training_examples
from experiments.runs.folders import RunFolder
from swe_gym_env import Rollout
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.policies.scripted import ScriptedPolicy
from tests.algorithms.conftest import tokenizer as tokenizer
from tests.experiments.test_view_tokens import stored_run
from tests.support.toy_tasks import FINISH, GOLD, LOOK, real_provider, toy_task


@pytest.fixture
def run(tmp_path: Path, tokenizer) -> RunFolder:  # type: ignore[no-untyped-def]
    folder = RunFolder(stored_run(tmp_path, tokenizer, "dagger"))
    for index in (0, 1):
        folder.round(index).mark_done("collect")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    export.main()


def test_tokens_are_those_of_the_trees(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    command(monkeypatch, run.path, 1, "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{len(rows)} sequences: {out}" in capsys.readouterr().out
    context, folders = stored_context(run.path), [run.round(0), run.round(1)]
    examples = training_examples(context.algorithm, folders)
    trees = list(example_trees(examples, context.student.renderer))
    assert {row["name"] for row in rows} == {tree.name for tree in trees}
    assert len(rows) > len(trees)
    learned = sum(float(tree.ce_weight.sum()) for tree in trees)
    assert sum(sum(row["weights"]) for row in rows) == learned > 0
    for row in rows:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["weights"])
        pairs = zip(row["labels"], row["weights"], strict=True)
        assert all((label == -100) == (weight == 0) for label, weight in pairs)
    assert not list(out.parent.glob(".*"))


@pytest.mark.slow
def test_messages_as_parquet_have_the_flags_of_verl(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "rows.parquet"
    command(monkeypatch, run.path, 1, "--out", out, "--format", "messages")
    rows = parquet.read_table(out).to_pylist()
    algorithm = stored_context(run.path).algorithm
    examples = training_examples(algorithm, [run.round(0), run.round(1)])
    trained = [m["content"] for row in rows for m in row["messages"] if m["trainable"]]
    expected = [
        example.episode.turns[target.turn].text if target.text is None else target.text
        for example in examples
        for target in example.targets
    ]
    assert sorted(trained) == sorted(expected)
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles[:2] == ["system", "user"] and roles[-1] == "assistant"


@pytest.mark.slow
def test_iteration0_is_exported_by_its_algorithm(run: RunFolder, tmp_path: Path) -> None:
    assert export.export(run.path, 0, "messages", tmp_path / "rows.jsonl") == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message",
    [
        ((1, "--out", "rows.txt"), "ends in .jsonl or .parquet"),
        ((7, "--out", "rows.jsonl"), "round_007 holds no round that was collected to its end"),
    ],
)
def test_what_cannot_be_written_is_refused(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, run.path, *arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.slow
def test_policy_gradients_are_refused(
    tmp_path: Path,
    tokenizer,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(stored_run(tmp_path, tokenizer, "grpo", "algorithm.repeats=2"))
    folder.round(1).mark_done("collect")
    with pytest.raises(SystemExit):
        command(monkeypatch, folder.path, 1, "--out", tmp_path / "rows.jsonl")
    message = capsys.readouterr().err
    assert "algorithm=grpo cannot be exported" in message and "policy gradient" in message


def test_folder_without_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, tmp_path, 1, "--out", tmp_path / "rows.jsonl")


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rollout:
    """A store that ``Rollout`` filled: two turns of the student with labels of a teacher."""
    real_provider("process")
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path / "home"))
    task = replace(toy_task(tmp_path / "home"), gold_patch=GOLD)
    policy = ScriptedPolicy([LOOK, FINISH], "student")
    made = Rollout(
        policy, sandbox="process", teacher=ExpertPolicy(), label=True, store=tmp_path / "store"
    )
    assert len(list(made([task]))) == 1
    return made


@pytest.mark.sandbox
def test_a_store_becomes_the_rows_of_its_labels(
    played: Rollout,
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"  # that of ``run``
    options = ("--out", tmp_path / "rows.jsonl")
    command(monkeypatch, tmp_path / "store", "--model", model, *options)
    rows = [json.loads(line) for line in options[1].read_text().splitlines()]
    labels = played.collected().annotations
    assert len(labels) == 2
    renderer = Renderer(load_tokenizer(model))
    learned = [
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0]
        for row in rows
    ]
    expected = [renderer.label(label.text).token_ids for label in labels]
    assert sorted(learned) == sorted(list(ids) for ids in expected)
    command(monkeypatch, tmp_path / "store", *options, "--format", "messages")
    chats = [json.loads(line)["messages"] for line in options[1].read_text().splitlines()]
    trained = [m["content"] for chat in chats for m in chat if m.get("trainable")]
    assert sorted(trained) == sorted(label.text for label in labels)
    for words, message in (
        ((tmp_path / "store", 0), "which holds one round: leave ROUND out"),
        ((tmp_path / "store",), "--format tokens of a store needs --model"),
        ((run.path,), "of a run folder, give ROUND too"),
    ):
        with pytest.raises(SystemExit):
            command(monkeypatch, *words, *options)
        assert message in capsys.readouterr().err
