"""A process that has imported everything heavy and forks a command for each request.

Each fork is the real command line in a separate process, and ends as one would, but it starts in
milliseconds, where a new interpreter imports torch, transformers and Hydra for seconds.

Started by ``tests.support.warm`` as ``python -m tests.support.warm_server``: one JSON request per
line on stdin, one JSON answer per line on stdout.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
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
    for name in HEAVY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported is not looked at again, or each fork would copy all of it
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(json.dumps(_wait(request["wait"])), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become_a_command(request)
        print(json.dumps(pid), flush=True)


def _wait(pid: int) -> tuple[int, float]:
    """The exit code (or minus the signal) of a command, and its CPU seconds."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _become_a_command(request: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, stream)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(request["env"])
    added = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in added if path and path not in sys.path]
    importlib.invalidate_caches()
    tempfile.tempdir = None  # it is chosen again, by this environment
    os.chdir(ROOT)
    if request.get("events") or request.get("kill"):
        from tests.support.chaos.watch import watch

        watch(request.get("events"), request.get("kill"))
    sys.argv = [request["module"], *request["arguments"]]
    code: object = None
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    _exit(code)


def _exit(code: object) -> NoReturn:
    """End as Python does at the end of a program: join threads, call the exit handlers, flush.

    It does not tear down the imported modules, which takes two seconds. An exception other than
    SystemExit does not come here: it ends the interpreter in the ordinary way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    main()
