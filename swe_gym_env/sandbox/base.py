"""The contract of sandboxes: what every provider must offer, and nothing more.

An environment runs commands in a copy of a repository that can be thrown away. Providers differ in
how strictly they isolate that copy, so each provider states for every limit whether it is enforced
``hard``, by ``best effort``, or not at all. One conformance suite (``tests/sandbox/``) checks all
providers against their statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from swe_gym_env.types import TaskInstance

# How well a limit is enforced. hard: code in the sandbox cannot exceed it. best effort: it is
# checked from time to time, or can be exceeded by code that tries to. none: nothing enforces it.
Guarantee = Literal["hard", "best effort", "none"]
# The keys of Sandbox.guarantees
LIMITS = ("isolation", "network", "cpu", "memory", "processes", "disk", "output", "time", "cleanup")


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use.

    Attributes:
        cpus: Processor cores; a fraction is allowed.
        memory: Bytes of all its processes together.
        processes: Processes (threads included) that may exist at the same time.
        disk: Bytes that may be written, and the largest size of a file.
        inodes: Files and folders that may be created.
        output: Bytes kept of the output of one command, half from its beginning and half from its
            end. The rest is read and dropped.
    """

    cpus: float = 2.0
    memory: int = 2 << 30
    processes: int = 128
    disk: int = 512 << 20
    inodes: int = 100_000
    output: int = 1 << 20


@dataclass(frozen=True)
class SandboxSpec:
    """What a provider needs to know to start a sandbox.

    Attributes:
        image: A Docker image, or the name of an image in the local store (``images.py``).
        workdir: Absolute path of the repository in the sandbox.
        env: Environment variables of every command, in addition to those of the image.
        limits: What the sandbox may use.
    """

    image: str
    workdir: str = "/testbed"
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()

    @classmethod
    def of(cls, task: TaskInstance, limits: Limits = Limits()) -> SandboxSpec:
        """The sandbox that ``task`` runs in."""
        return cls(task.image, task.workdir, task.env, limits)


@dataclass(frozen=True)
class ExecResult:
    """The result of one command.

    Attributes:
        exit_code: Exit code of the shell. 124 if the command was killed at its time limit, 128 + n
            if signal n killed it.
        output: Raw bytes of stdout and stderr, merged in the order in which they were written.
        seconds: Wall-clock time from the start of the command to its end.
        timed_out: Whether the command was killed at its time limit.
        dropped: Number of bytes that were cut from the middle of ``output`` (see
            ``Limits.output``).
        head: Number of bytes of ``output`` before that cut; 0 if nothing was cut.
    """

    exit_code: int
    output: bytes
    seconds: float
    timed_out: bool = False
    dropped: int = 0
    head: int = 0


@runtime_checkable
class Sandbox(Protocol):
    """One running sandbox.

    A sandbox is used by one thread at a time. Different sandboxes are independent of each other.

    Attributes:
        guarantees: For each name in ``LIMITS``, how well this sandbox enforces it.
    """

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

        A child that stays in the background and keeps stdout open does not delay the answer.

        Args:
            command: The text of the shell command.
            timeout: Seconds after which the whole process tree of the command is killed.
            cwd: Absolute folder to run in; the working folder of the sandbox by default.
            env: Variables for this command, in addition to those of the sandbox.
            stdin: Bytes on the standard input of the shell.

        Raises:
            SandboxError: The sandbox has ended or does not answer.
        """

    def read(self, path: str) -> bytes:
        """Return the content of a regular file.

        Args:
            path: Absolute path in the sandbox.

        Raises:
            OSError: The file cannot be read; FileNotFoundError if it does not exist.
            SandboxError: The sandbox has ended or does not answer.
        """

    def write(self, path: str, data: bytes) -> None:
        """Write a file and create the folders above it.

        Args:
            path: Absolute path in the sandbox.
            data: The whole content.

        Raises:
            OSError: The file cannot be written, for example because the disk is full.
            SandboxError: The sandbox has ended or does not answer.
        """

    def close(self) -> None:
        """Kill all processes in the sandbox and remove its writable layer.

        It may be called more than once.
        """


class SandboxProvider(Protocol):
    """Makes sandboxes of one kind. A provider may be used by several threads at once.

    Attributes:
        name: The name under which ``swe_gym_env.sandbox.provider`` finds it.
    """

    name: str

    def unavailable(self) -> str | None:
        """Return None if the provider works on this machine.

        Otherwise return one sentence that says what is missing and how to fix it.
        """

    def create(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox.

        Raises:
            SandboxError: The infrastructure failed; a second attempt may succeed.
            SetupError: Only the user can correct the cause, for example a missing image.
        """
