"""What a stored result depends on, as a digest: it fits as long as none of that has changed.

A file's path says nothing: rows are corrected in place, predictions are written again under the old
name. What does not matter is left out (the order of rows, their split, the statement of the
problem), so that a result outlives changes there.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import swe_gym_env
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import TaskInstance

# Of a task: what its test run depends on, and what the verdict on its log does besides
RUN = ("instance_id", "image", "base_commit", "test_patch", "eval_script", "workdir", "env")
SET_UP = ("sandbox/start.py", "sandbox/history.py", "tasks/walk.py")
JUDGED = ("gold_patch", "fail_to_pass", "pass_to_pass", "log_parser", "eval_type", "source")


def digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_patch(patch: str) -> str:
    return hashlib.sha256(patch.encode("utf-8", "surrogatepass")).hexdigest()


def of_run(task: TaskInstance, patch_sha256: str) -> str:
    """Of a log: the patch, and what of the task its tests are run with."""
    scripts = [task.metadata.get(name) for name in ("setup", "hide")]
    return digest(patch_sha256, [getattr(task, name) for name in RUN], scripts)


def of_verdict(
    task: TaskInstance, patch_sha256: str, sandbox: str, timeout: float, image: str = ""
) -> str:
    """Of a verdict: the run, what it is judged by, and our own rules."""
    judged = [getattr(task, name) for name in JUDGED]
    expected = task.metadata.get("expected")
    return digest(of_run(task, patch_sha256), judged, expected, sandbox, timeout, image, rules())


@cache
def rules() -> str:
    """The code that makes sandboxes of tasks and grades: a change there may change verdicts."""
    package = Path(swe_gym_env.__file__).parent
    files = [*sorted((package / "grading").glob("*.py")), *(package / name for name in SET_UP)]
    return digest([[file.name, file.read_text(encoding="utf-8")] for file in files])


def of_image(name: str, sandboxes: SandboxProvider) -> str:
    """Which image has this name now, as far as it can be told: it may be built again."""
    description = images.path_of(name) / "image.json"
    if description.is_file():  # the local store: it is written anew with every build
        return digest(description.read_text(), description.stat().st_mtime_ns)
    try:
        return str(sandboxes.api.inspect_image(name)["Id"])  # type: ignore[attr-defined]
    except Exception:  # no such image yet, or no engine: who needs it will say so
        return ""
