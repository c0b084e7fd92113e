"""Sandboxes without isolation: a copy of the tree in a temporary folder, only on explicit request.

They are for machines on which nothing can isolate, and for looking at a task by hand. Commands run
as the user who started the program, with the network and with access to all of that user's files.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.base import ExecResult, Guarantee, SandboxSpec
from swe_gym_env.sandbox.client import SupervisedSandbox

# Of the temporary folder's name. The id of the process that made the sandbox follows, so that
# `python -m swe_gym_env clean` can see whether that process still runs.
PREFIX = "swe-gym-sandbox-"
GUARANTEES: dict[str, Guarantee] = {
    "isolation": "none",
    "network": "none",
    "cpu": "none",
    "memory": "best effort",
    "processes": "best effort",
    "disk": "none",
    "output": "hard",
    "time": "best effort",
    "cleanup": "best effort",
}


class ProcessProvider:
    """Makes sandboxes without isolation. ``sandbox=auto`` never chooses it."""

    name = "process"

    def unavailable(self) -> str | None:
        return None if shutil.which("bash") else "bash is missing: install the package bash"

    def create(self, spec: SandboxSpec) -> ProcessSandbox:
        image = images.load(spec.image)
        if not image.tree_path.is_dir():
            raise SetupError(f"image {spec.image!r} lacks {image.tree_path}: build it again")
        return ProcessSandbox(image, spec)


class ProcessSandbox(SupervisedSandbox):
    """A sandbox in a temporary folder of the host.

    There is no mount namespace, so a path such as ``/testbed`` does not exist. Instead, paths of
    the working folder and of the image's mounts are replaced, in commands, folders and variables,
    by the host's paths that they stand for.
    """

    def __init__(self, image: images.Image, spec: SandboxSpec) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        tree = folder / "tree"
        self._places = {spec.workdir: str(tree)}
        self._places |= {sandbox: str(host) for sandbox, host in image.host_mounts().items()}
        places = sorted(map(re.escape, self._places), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w./-])({'|'.join(places)})(?![\w.-])")
        try:
            shutil.copytree(image.tree_path, tree, symlinks=True)
            for name in ("home", "tmp"):
                (folder / name).mkdir()
            env = {
                "PATH": os.pathsep.join([f"{sys.base_prefix}/bin", os.defpath]),
                "LANG": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                **image.env,
                **spec.env,
                "HOME": str(folder / "home"),
                "TMPDIR": str(folder / "tmp"),
            }
            super().__init__(_config(folder, spec), GUARANTEES, self._map_env(env), str(tree))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise SandboxError(f"cannot copy {image.tree_path}: {error}") from error
            raise

    def exec(
        self,
        command: str,
        *,
        timeout: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> ExecResult:
        return super().exec(
            self._map(command),
            timeout=timeout,
            cwd=self._map(cwd) if cwd else None,
            env=self._map_env(env or {}),
            stdin=stdin,
        )

    def read(self, path: str) -> bytes:
        return super().read(self._map(path))

    def write(self, path: str, data: bytes) -> None:
        super().write(self._map(path), data)

    def close(self) -> None:
        super().close()
        if os.getpid() == self._owner:  # the supervisor removed the folder, unless it was killed
            shutil.rmtree(self._folder, ignore_errors=True)

    def _map(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._places[match[1]], text)

    def _map_env(self, env: Mapping[str, str]) -> dict[str, str]:
        return {key: self._map(value) for key, value in env.items()}


def _config(folder: Path, spec: SandboxSpec) -> dict[str, Any]:
    limits = spec.limits
    return {
        "kind": "process",
        "remove": str(folder),
        "output": limits.output,
        "memory": limits.memory,
        "processes": limits.processes,
        "shell": shutil.which("bash") or "/bin/bash",
        "rlimits": [(resource.RLIMIT_CORE, 0)],
    }
