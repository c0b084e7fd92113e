"""Sandboxes as containers of a Docker Engine, or of a program with the same API (Podman, rootless).

The engine makes and limits the container. Process 1 in it is the same supervisor as in every other
sandbox, so a command takes as long as in a shell, without the 70 ms of ``docker exec``. The code of
the supervisor is sent over the attached standard input, so every image with bash and Python can be
used unchanged. When the parent ends, for whatever reason, the engine closes that standard input,
the supervisor ends, and the engine removes the container.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swe_gym_env.errors import EngineError, SandboxError, SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.base import Guarantee, Limits, SandboxSpec
from swe_gym_env.sandbox.client import SupervisedSandbox
from swe_gym_env.sandbox.docker.image import ensure
from swe_gym_env.sandbox.docker.leftovers import TTL, connect, labels, watch
from swe_gym_env.sandbox.docker.stream import FIND, NO_PYTHON, RECEIVE, Attached, program

STARTS = 4  # containers that are started at once; an engine would only queue more of them
# Root in the container may read, write and own all files of the image, and nothing else
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
GUARANTEES: dict[str, Guarantee] = {
    "isolation": "hard",
    "network": "hard",
    "cpu": "hard",
    "memory": "hard",
    "processes": "hard",
    "disk": "best effort",
    "output": "hard",
    "time": "hard",
    "cleanup": "hard",
}
log = logging.getLogger(__name__)


class DockerProvider:
    """Makes sandboxes in containers.

    Args:
        host: Address of the engine. By default ``DOCKER_HOST``, or else the first socket of an
            engine that exists on this machine.
    """

    name = "docker"

    def __init__(self, host: str | None = None) -> None:
        self._address = host or os.environ.get("DOCKER_HOST") or _socket()
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # connections cannot be shared

    def _forget(self) -> None:
        self._api: Any = None
        self._watched = False
        self._lock = threading.Lock()
        self._starts = threading.BoundedSemaphore(STARTS)
        self._environments: dict[str, dict[str, str]] = {}

    def unavailable(self) -> str | None:
        try:
            import docker
        except ImportError:
            return "the docker SDK is missing: pip install -e '.[docker]'"
        try:
            self.api.ping()
        except docker.errors.DockerException as error:
            return (
                f"no Docker Engine answers ({_brief(error)}): start it (`sudo systemctl start "
                "docker`), let this user use it (`sudo usermod -aG docker $USER`), or set "
                "DOCKER_HOST"
            )
        return None

    @property
    def api(self) -> Any:
        """The SDK's low-level client. Raises docker.errors.DockerException."""
        with self._lock:
            if self._api is None:
                self._api = connect(self._address)
            return self._api

    def create(self, spec: SandboxSpec) -> DockerSandbox:
        import docker

        try:
            if images.exists(spec.image):
                tag = ensure(self.api, spec.image, spec.workdir)
                spec = replace(spec, image=tag)
            env = self._environment(spec.image)
            self._watch()
            with self._starts:
                return DockerSandbox(self.api, spec, env)
        except (docker.errors.DockerException, OSError) as error:
            self._environments.pop(spec.image, None)
            kind = SandboxError if isinstance(error, docker.errors.APIError) else EngineError
            raise kind(f"cannot make a sandbox of {spec.image!r}: {_brief(error)}") from error

    def _watch(self) -> None:
        with self._lock:
            if not self._watched:
                watch(self._address)
                self._watched = True

    def _environment(self, image: str) -> dict[str, str]:
        """The environment variables of an image, which is pulled if the engine does not have it."""
        import docker

        if image in self._environments:
            return self._environments[image]
        try:
            found = self.api.inspect_image(image)
        except docker.errors.ImageNotFound:
            log.info("pulling %s", image)
            try:
                self.api.pull(*docker.utils.parse_repository_tag(image))
                found = self.api.inspect_image(image)
            except docker.errors.APIError as error:
                raise SetupError(
                    f"the engine has no image {image!r} and cannot pull it ({_brief(error)}): "
                    "build the tasks first, or fetch their images with `python -m swe_gym_env "
                    "prepull`"
                ) from error
        of_image = dict(pair.split("=", 1) for pair in found["Config"].get("Env") or ())
        env = {"PATH": os.defpath, "HOME": "/root", "LANG": "C.UTF-8", **of_image}
        return self._environments.setdefault(image, env)


class DockerSandbox(SupervisedSandbox):
    """One container, which ends when its standard input does.

    Attributes:
        container: Id of the container.
    """

    def __init__(self, api: Any, spec: SandboxSpec, env: Mapping[str, str]) -> None:
        self._api = api
        self.container: str = api.create_container(
            spec.image,
            entrypoint=["/bin/sh", "-c", FIND, RECEIVE],
            command=[],
            hostname="sandbox",
            user="0:0",
            working_dir="/",
            stdin_open=True,
            labels=labels(),
            healthcheck={"test": ["NONE"]},
            host_config=_host_config(api, spec.limits),
        )["Id"]
        config = {
            "kind": "docker",
            "output": spec.limits.output,
            "memory": spec.limits.memory,
            "processes": spec.limits.processes,
            "shell": "/bin/bash",
            "rlimits": [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, spec.limits.disk)],
            "ttl": TTL,
        }
        try:
            stream = Attached(api, self.container)
            api.start(self.container)
            stream.sendall(b"%8d" % len(program()) + program())
            super().__init__(config, GUARANTEES, {**env, **spec.env}, spec.workdir, stream)
        except BaseException as error:
            self._end_by_force()
            if NO_PYTHON in str(error):
                raise SetupError(f"{spec.image!r}: {NO_PYTHON}, which a sandbox needs") from None
            raise

    def _end_by_force(self) -> None:
        import docker

        with contextlib.suppress(docker.errors.DockerException, OSError):
            self._api.remove_container(self.container, force=True, v=True)


def _host_config(api: Any, limits: Limits) -> Any:
    return api.create_host_config(
        auto_remove=True,
        network_mode="none",
        cpu_period=100_000,
        cpu_quota=int(100_000 * limits.cpus),
        mem_limit=limits.memory,
        memswap_limit=limits.memory,  # both together: no swap on top
        pids_limit=limits.processes,
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["no-new-privileges"],
        log_config={"type": "none"},  # its standard output carries our protocol, which is no log
    )


def _socket() -> str:
    """Address of the first engine on this machine that this user may use."""
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    for path in ("/var/run/docker.sock", f"{user}/docker.sock", f"{user}/podman/podman.sock"):
        if os.path.exists(path) and os.access(path, os.W_OK):
            return f"unix://{path}"
    return "unix:///var/run/docker.sock"


def _brief(error: BaseException) -> str:
    return str(getattr(error, "explanation", None) or error).strip().splitlines()[0][:300]
