"""What every sandbox provider must offer, and nothing more.

An environment needs to run commands in a copy of a repository that it can throw away. Providers
differ in how they isolate, so each states for every limit whether it holds ``hard``, on
``best effort``, or not at all; one conformance suite (``tests/sandbox/``) checks them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from swe_gym_env.types import TaskInstance

Guarantee = Literal["hard", "best effort", "none"]
# The keys of Sandbox.guarantees
LIMITS = ("isolation", "network", "cpu", "memory", "processes", "disk", "output", "time", "cleanup")


@dataclass(frozen=True)
class Limits:
    """Per sandbox. Sizes in bytes, times in seconds."""

    cpus: float = 2.0  # cores
    memory: int = 2 << 30
    processes: int = 128
    disk: int = 512 << 20
    inodes: int = 100_000
    output: int = 1 << 20  # kept per command, head and tail; the rest is read and dropped


@dataclass(frozen=True)
class SandboxSpec:
    """What to start. ``image`` is a Docker image or a name in the local store (``images.py``)."""

    image: str
    workdir: str = "/testbed"
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()

    @classmethod
    def of(cls, task: TaskInstance, limits: Limits = Limits()) -> SandboxSpec:
        return cls(task.image, task.workdir, task.env, limits)


@dataclass(frozen=True)
class ExecResult:
    """``output`` is stdout and stderr merged, as raw bytes; ``dropped`` counts what was cut from
    its middle, and ``head`` how many bytes stand before the cut. A command that was killed at its
    time limit has ``timed_out`` True and exit code 124; one killed by signal n has 128 + n."""

    exit_code: int
    output: bytes
    seconds: float
    timed_out: bool = False
    dropped: int = 0
    head: int = 0


@runtime_checkable
class Sandbox(Protocol):
    """One sandbox. Used by one thread at a time; different sandboxes are independent."""

    guarantees: Mapping[str, Guarantee]

    def exec(
        self,
        command: str,
        *,
        timeout: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> ExecResult:
        """Run ``bash -c command`` in a fresh process group and wait for that shell to end.

        A background child that holds stdout does not delay the answer. At ``timeout`` seconds the
        whole process tree is killed. Raises SandboxError if the sandbox itself is gone.
        """

    def read(self, path: str) -> bytes:
        """The file at an absolute path in the sandbox. Raises FileNotFoundError."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file, making its folders. Raises OSError (a full disk, say)."""

    def close(self) -> None:
        """Kill everything in the sandbox and remove its writable layer. May be called twice."""


class SandboxProvider(Protocol):
    """Makes sandboxes of one kind."""

    name: str

    def unavailable(self) -> str | None:
        """None if it works on this machine, else one sentence: what is missing and the fix."""

    def create(self, spec: SandboxSpec) -> Sandbox:
        """Raises SandboxError for a fault, SetupError for what the user must mend."""
