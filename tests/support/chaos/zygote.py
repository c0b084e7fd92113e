"""One process that has imported everything and forks a run for each order, so that a run costs
seconds less. Each fork is the real command line, and ends as a process of its own would.

Started as ``python -m tests.support.chaos.zygote``; one JSON order a line on stdin, one answer a
line on stdout. With ``kill`` a run ends itself by SIGKILL at the n-th call that makes something
lasting (fsync, rename, a phase marked done): before it, after it, or with the line before it torn.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HEAVY = (
    "experiments.pipeline.phases",
    "experiments.report",
    "algorithms.engine.learner",
    "algorithms.engine.hf_policy",
    "algorithms.engine.examples",
    "algorithms.dagger",
    "algorithms.sft",
    "swe_gym_env.policies.expert",
    "swe_gym_env.policies.server",
    "swe_gym_env.grading",
    "swe_gym_env.sandbox.local",
    "swe_gym_env.sandbox.docker",
    "swe_gym_env.tasks.jsonl",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "swebench.harness.log_parsers",
    "scipy.stats",
    "docker",
)


def main() -> None:
    import importlib

    for name in HEAVY:
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            status = os.waitpid(order["wait"], 0)[1]
            print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become_a_run(order)
            return  # the interpreter ends as that of a run does
        print(json.dumps(pid), flush=True)


def _become_a_run(order: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, stream in ((null, 0), (out, 1), (out, 2)):
        os.dup2(fd, stream)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.update(order["env"])
    tempfile.tempdir = None
    os.chdir(ROOT)
    _watch(order.get("events"), order.get("kill"))
    module = order.get("module", "experiments.run")
    sys.argv = [module, *order["overrides"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(events: str | None, kill: dict[str, Any] | None) -> None:
    """Write a line to ``events`` for each lasting call; do what ``kill`` says at one of them."""
    count = 0

    def around(name: str, call: Callable[..., Any], wanted: Callable[..., bool]) -> Any:
        def watched(*args: Any, **options: Any) -> Any:
            nonlocal count
            if not wanted(*args):
                return call(*args, **options)
            count += 1
            if events:
                with open(events, "a") as file:
                    file.write(f"{name}\n")
            now = kill is not None and kill["number"] == count
            if now and kill is not None and kill["how"] != "after":
                if kill["how"] == "torn" and name == "fsync":
                    _tear(args[0], kill["seed"])
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return watched

    os.fsync = around("fsync", os.fsync, lambda *_: True)
    os.rename = around("rename", os.rename, lambda *_: True)
    os.replace = around("replace", os.replace, lambda *_: True)
    os.open = around("done", os.open, lambda path, *_: str(path).endswith(".done"))


def _tear(fd: int, seed: int) -> None:
    """As if the write before had been cut: the file loses some of its last bytes."""
    size = os.fstat(fd).st_size
    os.ftruncate(fd, size - random.Random(seed).randint(1, min(size, 400)))


if __name__ == "__main__":
    main()
