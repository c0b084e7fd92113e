"""Digests of everything that a stored result depends on, to decide whether it is still valid.

The path of a file is not part of it, because rows are corrected in place and predictions are
written again under the same name. Data without an effect on the result is left out (the order of
rows, their split, the problem statement), so that a result stays valid when only that changes.
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

# Fields of a task on which its test run depends, and those on which the verdict depends in addition
RUN = ("instance_id", "image", "base_commit", "test_patch", "eval_script", "workdir", "env")
SET_UP = ("sandbox/start.py", "sandbox/history.py", "tasks/walk.py")
JUDGED = ("gold_patch", "fail_to_pass", "pass_to_pass", "log_parser", "eval_type", "source")


def digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_patch(patch: str) -> str:
    return hashlib.sha256(patch.encode("utf-8", "surrogatepass")).hexdigest()


def of_run(task: TaskInstance, patch_sha256: str) -> str:
    """Digest of what a test log depends on: the patch, and the task as far as it is run."""
    scripts = [task.metadata.get(name) for name in ("setup", "hide")]
    return digest(patch_sha256, [getattr(task, name) for name in RUN], scripts)


def of_verdict(
    task: TaskInstance, patch_sha256: str, sandbox: str, timeout: float, image: str = ""
) -> str:
    """Digest of what a verdict depends on: the run, the lists of tests, and the grading code."""
    judged = [getattr(task, name) for name in JUDGED]
    expected = task.metadata.get("expected")
    return digest(of_run(task, patch_sha256), judged, expected, sandbox, timeout, image, rules())


@cache
def rules() -> str:
    """Digest of the code that starts sandboxes and grades, since a change may change verdicts."""
    package = Path(swe_gym_env.__file__).parent
    files = [*sorted((package / "grading").glob("*.py")), *(package / name for name in SET_UP)]
    return digest([[file.name, file.read_text(encoding="utf-8")] for file in files])


def of_image(name: str, sandboxes: SandboxProvider) -> str:
    """Identity of the image that has this name now, since it may be built again; "" if unknown."""
    description = images.path_of(name) / "image.json"
    if description.is_file():  # the local store: it is written anew with every build
        return digest(description.read_text(), description.stat().st_mtime_ns)
    try:
        return str(sandboxes.api.inspect_image(name)["Id"])  # type: ignore[attr-defined]
    except Exception:  # no such image or no engine: its first use reports that
        return ""
