"""The benchmark of one GPU, very small and without one: what is rare must not be spent on bugs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks import gpu
from experiments.benchmarks.gpu import Case, Send
from tests.algorithms.serving.test_fleet import gone
from tests.experiments.conftest import Job

pytestmark = pytest.mark.e2e


def too_large(send: Send) -> None:
    send("first", 1.0, "s")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")


def hangs(send: Send) -> None:
    below = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    send("below", below.pid, "")
    below.wait()


def killed(send: Send) -> None:
    send("first", 3.0, "s")
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(600)
def test_every_section_works_and_no_failure_stops_the_next_one(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = gpu.cases(None, toy=True)
    assert {case.name.split()[0] for case in real} == {"train", "decode"}
    wrong = [
        Case("too large", 300.0, too_large),
        Case("hangs", 5.0, hangs),
        Case("killed", 300.0, killed),
    ]
    monkeypatch.setenv("SWE_GYM_HOME", str(job.home))
    tiny = Case("run", 600.0, partial(gpu.whole_run, overrides=job.overrides))
    generous = [Case(case.name, 300.0, case.measure) for case in real]
    monkeypatch.setattr(gpu, "SECONDS", 3000.0)
    monkeypatch.setattr(gpu, "cases", lambda only, toy: [*wrong, *generous, tiny])
    monkeypatch.setattr("sys.argv", ["gpu", "--toy", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="some cases failed"):
        gpu.main()
    found = json.loads((tmp_path / "out/gpu.json").read_text())["results"]
    of: dict[str, dict[str, Any]] = {}
    for one in found:
        of.setdefault(one["case"], {})[one["what"]] = one["value"]
    assert of["too large"] == {"first": 1.0, "out of memory": None}
    below = of["hangs"].pop("below")
    assert of["hangs"] == {"out of time (5 s)": None} and gone([int(below)])
    assert of["killed"] == {"first": 3.0, "failed: ended by -9 (memory?)": None}
    for case in ("train toy adapter", "train toy all weights"):
        assert set(of[case]) == {
            *(
                f"{kind} of 640{rest}"
                for kind in ("conversations", "trees")
                for rest in ("", ", first step")
            ),
            "peak of memory",
            "the plan's figure",
        }
        assert all(value > 0 for value in of[case].values())
    adapter, whole = (of[f"train toy {name}"] for name in ("adapter", "all weights"))
    assert adapter["the plan's figure"] < whole["the plan's figure"]
    assert {what.split(" rows")[0] for what in of["decode toy"]} == {"1", "2"}
    assert all(value > 0 for value in of["decode toy"].values())
    assert of["run"]["all of it"] > sum(of["run"].values()) / 2 > 0 and len(of["run"]) > 3
    output = capsys.readouterr().out
    assert "out of memory" in output and "tokens/s" in output
    assert "| decode toy | 2 rows" in (tmp_path / "out/gpu.md").read_text()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--toy"):
        gpu.main()
    assert not (tmp_path / "out").exists()


def test_the_whole_is_planned_for_eight_minutes() -> None:
    """Each case keeps its limit, so what comes last has what the others have left."""
    names = [case.name for case in gpu.cases(None, toy=False)]
    assert len(names) == 7 and names[-1] == "run" and gpu.SECONDS == 480
    assert {name.split()[1] for name in names[:-1]} == {"135m", "4b"}
    assert [case.name for case in gpu.cases("decode", toy=False)] == names[4:6]
