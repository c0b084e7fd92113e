"""The agent's change as a patch: taken from its sandbox at the end of an episode.

git makes the patch inside the agent's sandbox, with a scratch repository over the same objects.
Where it cannot (the agent removed ``.git``, the disk is full, ...), ``rescue.py`` compares the
files with a fresh copy of the image. What is the agent's own doing never becomes "no change".
"""

from __future__ import annotations

import logging
import secrets
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from swe_gym_env.errors import SandboxError
from swe_gym_env.grading.diff_script import CACHES, DIFF, PROBE, READABLE, SILENT
from swe_gym_env.sandbox.base import ExecResult, Sandbox, SandboxProvider
from swe_gym_env.types import TaskInstance

__all__ = ["MAX_PATCH", "MOST_BYTES", "Extracted", "diff", "extract"]

log = logging.getLogger(__name__)

MAX_PATCH = 8 << 20  # bytes; a larger change is scored 0 and not kept
MOST_BYTES = 64 << 20  # of one new file: a larger one is not even read
GIT_SECONDS = 60.0
CLOCK_OF_FILES = 5  # CLOCK_REALTIME_COARSE, for which Python has no name
MOST_LISTED = 20  # names of what is left out
CAUSES = {
    "closed": "the agent removed or closed the working folder",
    "removed": "the agent removed .git, the data of the repository",
    "replaced": "the agent replaced .git, the data of the repository",
    "full": "the disk of the agent's sandbox was full",
}
KINDS = {
    "ignored": "ignored by git",
    "venv": "a virtual environment",
    "repository": "a repository of its own",
}


def moment() -> float:
    """Now, in seconds: later than the time stamp of every file there is, and earlier than that of
    every file to come.

    Linux stamps files by a clock that stands still for up to 10 ms, so this waits for it to move.
    """
    if sys.platform != "linux":
        return time.time()
    before = after = time.clock_gettime(CLOCK_OF_FILES)
    while after == before:
        time.sleep(0.0005)
        after = time.clock_gettime(CLOCK_OF_FILES)
    return (before + after) / 2


@dataclass(frozen=True)
class Extracted:
    """``left_out``: what of the agent's files is not in the patch, one sentence each. ``note``:
    how the patch was made, if not as usual. ``refused``: why it scores 0 unseen; ``patch`` is then
    empty."""

    patch: str = ""
    left_out: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""

    @property
    def told(self) -> tuple[str, ...]:
        """All that is not in the patch, and why."""
        return (*self.left_out, self.refused) if self.refused else self.left_out


class DiffError(SandboxError):
    """git could not make the diff in this sandbox; the message says why."""


class RefusedError(Exception):
    """The agent's files are such that no patch can be made of them; the message says why."""


def diff(sandbox: Sandbox, task: TaskInstance) -> str:
    """What the agent changed since ``task.base_commit``, new files included, caches left out.

    Commits, staging and branches of the agent's make no difference. Empty where nothing changed.
    Bytes that are not UTF-8 stand as surrogate escapes. Raises DiffError where git cannot tell or
    the patch exceeds ``MAX_PATCH``, SandboxError where the sandbox is gone.
    """
    found = in_sandbox(sandbox, task, lenient=True)
    if found.refused:
        raise DiffError(found.refused)
    return found.patch


def extract(
    sandbox: Sandbox,
    task: TaskInstance,
    provider: SandboxProvider,
    base: str = "",
    since: float | None = None,
) -> Extracted:
    """As :func:`diff`, and whatever the agent did to its repository there is an answer.

    ``provider`` makes the fresh sandbox that the files are compared with where git fails. ``base``:
    the full hash of the base commit in this sandbox. ``since``: when the agent began, in seconds
    of the epoch; files that are older are not reported as left out. Raises SandboxError where a
    sandbox is gone or the fresh one fails too.
    """
    from swe_gym_env.grading.rescue import rescue

    try:
        return in_sandbox(sandbox, task, base, since)
    except DiffError as error:
        log.info("%s: no diff in the agent's sandbox: %s", task.instance_id, error)
        note = _cause(sandbox, task, str(error))
    try:
        found = rescue(sandbox, task, provider)
    except RefusedError as error:
        return Extracted(refused=f"{note}; {error}")
    return replace(found, note=f"{note}; its files were compared with a fresh copy instead")


def in_sandbox(
    sandbox: Sandbox,
    task: TaskInstance,
    base: str = "",
    since: float | None = None,
    lenient: bool = False,
) -> Extracted:
    """git's diff, made in ``sandbox``; ``lenient`` leaves out what git cannot add.

    Raises DiffError, SandboxError.
    """
    mark = secrets.token_hex(8)
    script = DIFF.format(
        workdir=shlex.quote(task.workdir),
        base=shlex.quote(f"{base or task.base_commit}^{{tree}}"),
        mark=mark,
        caches=" ".join(f"{name}/" for name in CACHES),
        silent="|".join(f"*/{name}/" for name in SILENT),
        readable=READABLE.format(),
        lenient="true" if lenient else "false",
        most=MAX_PATCH + 1,
        most_bytes=MOST_BYTES,
        since=f"{since:.6f}" if since is not None else "",
        told=MOST_LISTED + 1,
    )
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
    _, found, said = done.output.partition(f"{mark}\0".encode())
    if done.exit_code != 0 or not found:
        raise DiffError(_words(done))
    path, size, unread, *rest = said.decode("utf-8", "surrogateescape").split("\0")
    if path == "large":
        return Extracted(refused=f"the new file {size!r} is larger than {MOST_BYTES >> 20} MiB")
    left_out = [f"git could not add all files: {' '.join(unread.split())}"] if unread else []
    left_out += _explained(rest)
    folder = shlex.quote(str(PurePosixPath(path).parent))
    try:
        if int(size) > MAX_PATCH:
            return Extracted(left_out=tuple(left_out), refused=too_large("more than "))
        data = sandbox.read(path)
    except OSError as error:
        raise DiffError(f"the diff cannot be read: {error}") from error
    finally:
        sandbox.exec(f"rm -rf {folder}", timeout=GIT_SECONDS, cwd="/")
    return Extracted(data.decode("utf-8", "surrogateescape"), tuple(left_out))


def too_large(size: str) -> str:
    """Why a patch of that size is not graded."""
    return f"the patch is too large: {size}{MAX_PATCH >> 20} MiB, which is the limit"


def _explained(parts: list[str]) -> Iterator[str]:
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    for kind, name in pairs[:MOST_LISTED]:
        is_cache = name.rstrip("/").rpartition("/")[2] in CACHES
        yield f"{name} ({'a folder of tools' if is_cache else KINDS[kind]})"
    if len(pairs) > MOST_LISTED:
        yield "and more of this kind"


def _cause(sandbox: Sandbox, task: TaskInstance, words: str) -> str:
    script = PROBE.format(workdir=shlex.quote(task.workdir))
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
    probed = ["closed"] if done.exit_code == 3 else done.output.decode("utf-8", "replace").split()
    cause = CAUSES.get(probed[-1] if probed else "")
    if cause is None and "No space left" in words:
        cause = CAUSES["full"]
    return cause or f"git could not make the diff in the agent's repository ({words})"


def _words(done: ExecResult) -> str:
    if done.timed_out:
        return f"it took longer than {GIT_SECONDS:.0f} s"
    said = done.output.decode("utf-8", "replace").strip()[-300:]
    return " ".join(said.split()) or f"exit code {done.exit_code}"
