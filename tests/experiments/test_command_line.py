"""What a user reads who asks for help, mistypes, or wants more than the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import warm

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def run(*arguments: str, module: str = "experiments.run", **env: str) -> tuple[int, str]:
    """Exit code and output of a command that is forked from the warm interpreter."""
    environment = {**os.environ, **env}
    return warm.interpreter().run(module, *arguments, env=environment, timeout=60)


def run_anew(*arguments: str, module: str = "experiments.run", **env: str) -> tuple[int, str]:
    """The same in a new interpreter, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_help_lists_the_choices_and_examples() -> None:
    code, printed = run_anew("--help")
    assert code == 0
    for line in ("model: qwen4b, qwen8b, smollm2", "beta: constant, cosine", "Examples:"):
        assert line in printed


def test_the_configuration_can_be_printed() -> None:
    code, printed = run("--cfg", "job", "beta=cosine")
    assert code == 0 and "shape: cosine" in printed and "episodes_per_round:" in printed


def test_an_unknown_choice_says_what_exists() -> None:
    code, printed = run("algorithm=ppo")
    assert code == 1 and "Available options in 'algorithm'" in printed and "dagger" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("beta=0.3", "beta=0.3: beta is one of constant, cosine"),
        ("beta=0.3,0.5", "beta=0.3,0.5: beta is one of"),
        ("rounds=three", "rounds=three: it is a whole number, 0 or more"),
        ("episodes_per_round=-3", "episodes_per_round=-3: it is a whole number, 1 or more"),
        ("tasks=jsonl", "give tasks.options.path=...: there is no default"),
        ("tasks.options.path=/none", "tasks.options.path=/none is not there"),
        ("model.path=/none", "model.path=/none is no Hugging Face folder"),
    ],
)
def test_a_value_that_cannot_be_is_named(given: str, message: str, tmp_path: Path) -> None:
    words = ["tasks=jsonl", given] if given.startswith("tasks.") else [given]
    code, printed = run(*words, f"paths.runs={tmp_path}")
    assert code and message in printed and "Traceback" not in printed
    assert not list(tmp_path.glob("*")), "it left nothing behind"


@pytest.mark.parametrize("module", ["experiments.run", "experiments.evaluate"])
def test_an_unknown_value_says_what_exists_beside_it(module: str) -> None:
    code, printed = run("training.epoch=2", "model=qwen8b", module=module)
    assert code == 1 and "did you mean epochs?" in printed and "batch_size" in printed
    assert len(printed.splitlines()) == 1, "and nothing of Hydra's"


def test_a_large_model_without_its_hardware_ends_in_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    # no nvidia-smi on the path and no engine: whatever this machine has
    absent = {"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none"}
    code, printed = run_anew("model=qwen8b", f"paths.runs={tmp_path}", **absent)
    assert time.monotonic() - began < 20
    assert code == 2 and "Traceback" not in printed
    for part in (
        "GPU: ",
        "4 with 80 GB each; found none",
        "rows of swe_gym",
        "docker",
        "teacher: ",
    ):
        assert part in printed
    assert "python -m experiments.run\n" in printed
    assert not list(tmp_path.glob("*")), "it left nothing behind"
