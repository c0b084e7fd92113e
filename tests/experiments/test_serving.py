"""serving=vllm: what is started, what is refused, and a whole run with a real server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.pipeline import preflight, serving
from experiments.pipeline.build import RunContext
from experiments.runs.folders import run_folder
from swe_gym_env.errors import SetupError
from tests.algorithms.serving.conftest import vllm_python as vllm_python
from tests.algorithms.serving.test_fleet import below, gone
from tests.experiments.conftest import ROOT, Job
from tests.experiments.test_configuration import configuration


def own(*overrides: str) -> RunContext:
    context = RunContext(configuration("serving=vllm", *overrides))
    context.student.__dict__["start"] = Path("/models/nowhere")
    return context


def options(*overrides: str) -> list[str]:
    context = own(*overrides)
    return serving.arguments(context.cfg, context.student.precision, context.student.start)


def test_servers_stay_while_rounds_are_collected_ahead() -> None:
    both = ("serving=vllm", "training=lora", "overlap=1", "training.launch=[python]")
    with pytest.raises(SetupError, match=r"serving\.stop_for_training=false"):
        RunContext(configuration(*both)).check()


@pytest.mark.slow
def test_the_command_line_follows_from_the_configuration() -> None:
    plain = options("model.dtype=float32", "serving.max_context=512")
    pairs = dict(itertools.pairwise(plain))
    assert (pairs["--dtype"], pairs["--max-model-len"]) == ("float32", "512")
    assert pairs["--logprobs-mode"] == "processed_logprobs" and "--enable-lora" not in plain
    given = ("serving.server.arguments={block_size: 32, enforce_eager: true}",)
    lora = options("training=lora", "training.lora_rank=20", *given)
    pairs = dict(itertools.pairwise(lora))
    assert "--enable-lora" in lora and pairs["--max-lora-rank"] == "32"
    assert pairs["--block-size"] == "32" and "--enforce-eager" in lora


@pytest.mark.slow
def test_replicas_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    two = ("serving.server.replicas=2", "serving.server.tensor_parallel=2")

    def seen(*overrides: str) -> list[str]:
        servers = own(*two, *overrides).student.fleet.servers
        return [s.launch.environment["CUDA_VISIBLE_DEVICES"] for s in servers if s.launch]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert seen() == ["0,1", "2,3"]
    assert seen("serving.server.gpus=[7,6,5,4]") == ["7,6", "5,4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    with pytest.raises(SetupError, match="need 4, and there are 3"):
        seen()
    urls = own("serving.urls=[http://a:1/v1, http://b:2]").student.fleet.servers
    assert [server.url for server in urls] == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ((), "names none"),
        (("serving.server.python=/nowhere/python",), "/nowhere/python cannot import it"),
        ((f"serving.server.python={sys.executable}",), "cannot import it"),
        (("serving.urls=[http://127.0.0.1:9/v1]",), "no model server answers at http://127.0.0.1"),
    ],
)
def test_a_server_that_cannot_be_is_said_before_the_run(
    given: tuple[str, ...], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWE_GYM_VLLM_PYTHON", raising=False)
    with pytest.raises(SetupError, match=output):
        preflight.check(configuration("serving=vllm", "sandbox=local", *given))


@pytest.mark.slow
def test_where_it_is_served_does_not_change_the_run_and_who_serves_does() -> None:
    one = run_folder(configuration("serving=vllm")).path.name
    same = ("serving.server.replicas=4", "serving.urls=[http://a:1]", "serving.timeout=9")
    assert run_folder(configuration("serving=vllm", *same)).path.name == one
    others = {run_folder(configuration(o)).path.name for o in ("serving=hf", "serving=vllm")}
    assert len(others) == 2


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_a_served_run_is_killed_and_goes_on_to_its_end(
    job: Job, smollm2: Path, tmp_path: Path, vllm_python: str
) -> None:
    store = tmp_path / "home" / "models"
    store.mkdir(parents=True)
    (store / smollm2.name).symlink_to(smollm2)
    size = ("episodes_per_round=2", "iteration0.episodes=2", "evaluation.tasks=2")
    size += ("beta=constant", "beta.start=0.0", "sampling.max_new_tokens=8")
    server = (f"serving.server.python={vllm_python}", "serving.stop_for_training=false")
    server += (
        "serving.server.arguments={enforce_eager: true, max_num_seqs: 8, block_size: 32}",
        "serving.server.environment={VLLM_CPU_KVCACHE_SPACE: 1}",
        "serving.max_context=2048",
    )
    given = ("model.path=smollm2", "model.dtype=auto", "serving=vllm", "training=lora")
    given += (*size, *server)
    command = job.command(*given)
    with subprocess.Popen(command, cwd=ROOT, env=job.env, stdout=subprocess.DEVNULL) as run:
        try:
            deadline = time.monotonic() + 600
            while job.lines("dagger-*/rounds/round_001/episodes.jsonl") < 1:
                assert run.poll() is None and time.monotonic() < deadline, "it did not get so far"
                time.sleep(0.1)
            started = below(run.pid)[1:]
        finally:
            run.kill()
    assert len(started) >= 3 and gone(started), "the servers went with the run"
    job.run(*given)
    (claim,) = [json.loads(path.read_text()) for path in job.runs.glob("dagger-*/summary.json")]
    assert claim["evaluations"][-1]["n"] == 2
    rounds = job.folder() / "rounds"
    assert (rounds / "round_001/checkpoint/adapter_model.safetensors").exists()
    lines = (rounds / "round_001/episodes.jsonl").read_text().splitlines()
    turns = [turn for line in lines for turn in json.loads(line)["turns"]]
    served = {os.path.realpath(t["policy_version"]) for t in turns if t["actor"] == "student"}
    assert served == {os.path.realpath(rounds / "round_000/checkpoint")}
