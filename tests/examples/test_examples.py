"""The examples, run as a user runs them: as programs, on real sandboxes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.tasks import jsonl
from swe_gym_env.types import TaskInstance
from tests.policies.test_server import Model, chat
from tests.support.toy_tasks import FINISH, FIX, GOLD, copies, real_provider, toy_task

pytestmark = [pytest.mark.sandbox, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TaskInstance]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        real_provider("local")
        toys = copies(replace(toy_task(home), gold_patch=GOLD), 3)
        jsonl.save(toys, home / "rows.jsonl")
        jsonl.save(toys[:1], home / "one.jsonl")
        yield toys


def example(name: str, *args: object, rows: str = "rows", fails: bool = False) -> str:
    file = Path(os.environ["SWE_GYM_HOME"], f"{rows}.jsonl")
    command = [sys.executable, "-m", f"examples.{name}", *map(str, args), "--tasks", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny models: threads only wait for each other
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_an_agent_on_an_endpoint_leaves_predictions_that_can_be_scored(
    toys: list[TaskInstance], tmp_path: Path
) -> None:
    model, preds = Model(), tmp_path / "preds.jsonl"
    model.answer = lambda body, _: chat(FIX if len(body["messages"]) == 2 else FINISH)
    try:
        args = ["--base-url", model.url, "--model", "small", "--preds", preds, "--limit", 2]
        output = example("openai_agent", *args)
    finally:
        model.close()
    assert output.endswith("2 of 2 resolved\n") and "toy-1 finished resolved" in output
    assert len(model.requests) == 4
    first, second = map(json.loads, preds.read_text().splitlines())
    assert {first["instance_id"], second["instance_id"]} == {"toy-1", "toy-2"}
    assert first["model_name_or_path"] == "small" and "+    return a + b" in first["model_patch"]
    scored = example("score_predictions", preds)
    assert "toy-2\tresolved" in scored and "toy-3\tempty_patch" in scored
    assert "2 of 3 resolved" in scored


def test_predictions_of_another_system(toys: list[TaskInstance], tmp_path: Path) -> None:
    preds = tmp_path / "preds.jsonl"
    patches = {"toy-1": GOLD, "toy-2": GOLD.replace("a + b", "a * b"), "toy-3": None}
    lines = [{"instance_id": name, "model_patch": patch} for name, patch in patches.items()]
    preds.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = example("score_predictions", preds)
    assert "toy-1\tresolved" in output and "toy-2\tunresolved\t1 of 1 tests still fail" in output
    assert "1 of 3 resolved" in output
    preds.write_text('{"instance_id": "other-1", "model_patch": ""}\n')
    assert "has no task other-1" in example("score_predictions", preds, fails=True)


def test_an_endpoint_that_is_not_there_is_said_without_a_traceback(
    toys: list[TaskInstance], tmp_path: Path
) -> None:
    args = ["--base-url", "http://127.0.0.1:9/v1", "--model", "x", "--preds", tmp_path / "preds"]
    output = example("openai_agent", *args, fails=True)
    assert output.startswith("no model server answers at http://127.0.0.1:9/v1")


def test_thirty_two_environments_side_by_side(toys: list[TaskInstance]) -> None:
    output = example("vector_env", "--episodes", 40)
    word, count = output.split()
    assert word == "empty_patch" and int(count) >= 40


def test_own_policy_goes_on_in_its_store(toys: list[TaskInstance], tmp_path: Path) -> None:
    store = tmp_path / "episodes"
    first = example("own_policy", "--store", store)
    assert first.count("2 turns empty_patch") == 6
    written = (store / "episodes.jsonl").read_bytes()
    assert sorted(example("own_policy", "--store", store).splitlines()) == sorted(
        first.splitlines()
    )
    assert (store / "episodes.jsonl").read_bytes() == written


def test_dagger_as_library_trains_two_rounds(toys: list[TaskInstance], tmp_path: Path) -> None:
    from tests.algorithms.conftest import tiny_model, tiny_tokenizer

    path = ROOT / "examples" / "dagger_as_library.py"
    assert len(path.read_text().splitlines()) <= 40 and "hydra" not in path.read_text()
    start, out = tmp_path / "model", tmp_path / "out"
    tokenizer = tiny_tokenizer()
    for part in (tiny_model(len(tokenizer)), tokenizer):
        part.save_pretrained(start)
    output = example("dagger_as_library", "--model", start, "--output", out)
    assert output.startswith("round 1: 3 of 3 resolved, loss ") and "round 2: " in output
    losses = [float(line.rpartition(" ")[2]) for line in output.splitlines()]
    assert losses[1] < losses[0]
    assert (out / "round2" / "checkpoint" / "model.safetensors").is_file()


def test_one_step_of_grpo_in_trl(toys: list[TaskInstance], tmp_path: Path) -> None:
    """A random model that knows whole turns as single words: some episodes run, so rewards differ
    and there is something to learn from."""
    import torch
    from safetensors.torch import load_file

    from tests.algorithms.conftest import tiny_model, tiny_tokenizer

    start, out = tmp_path / "model", tmp_path / "out"
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([FIX, FINISH, *(f"```bash\necho {n}\n```" for n in range(40))])
    for part in (tiny_model(len(tokenizer), seed=1), tokenizer):
        part.save_pretrained(start)
    output = example("trl_grpo", "--model", start, "--output", out, rows="one")
    logged = ast.literal_eval(next(line for line in output.splitlines() if "'loss'" in line))
    assert float(logged["reward_std"]) > 0 and float(logged["grad_norm"]) > 0
    assert float(logged["completions/mean_length"]) > 64  # more than one turn
    before, after = (load_file(folder / "model.safetensors") for folder in (start, out))
    assert all(torch.isfinite(weights).all() for weights in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
