"""Extract the agent's change from its sandbox as a patch, at the end of an episode.

git makes the patch inside the agent's sandbox, in a scratch repository that shares the objects of
the real one (``diff_script.py``). If git fails there, because the agent removed ``.git`` or the
disk is full, ``rescue.py`` compares the files with a fresh copy of the image instead. Whatever the
agent did to its repository, its work must never be scored as "no change" by mistake.
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
MOST_BYTES = 64 << 20  # bytes of one new file; a larger file is not read
GIT_SECONDS = 60.0  # that one script may take
CLOCK_OF_FILES = 5  # CLOCK_REALTIME_COARSE, for which Python has no name
MOST_LISTED = 20  # names of left-out files in a report
# Why git could not make the diff: the word that PROBE prints, and a sentence for it
CAUSES = {
    "closed": "the agent removed or closed the working folder",
    "removed": "the agent removed .git, the data of the repository",
    "replaced": "the agent replaced .git, the data of the repository",
    "full": "the disk of the agent's sandbox was full",
}
# Why git leaves a file out
KINDS = {
    "ignored": "ignored by git",
    "venv": "a virtual environment",
    "repository": "a separate repository",
}


def moment() -> float:
    """The current time, which lies strictly between the time stamps of older and newer files.

    Linux stamps files by a coarse clock that stands still for up to 10 ms. So a file may get the
    same stamp as an earlier one. This function waits for that clock to move.

    Returns:
        Seconds since the epoch: later than the stamp of every existing file, and earlier than that
        of every file that is written afterwards.
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
    """What was taken from an agent's sandbox.

    Attributes:
        patch: The change as a diff.
        left_out: Files of the agent that are not in the patch and why, one sentence each.
        note: How the patch was made, if not in the usual way.
        refused: Why the change scores 0 without a test run; ``patch`` is then empty.
    """

    patch: str = ""
    left_out: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""

    @property
    def omissions(self) -> tuple[str, ...]:
        """Everything that is not in the patch, and why, one sentence each."""
        return (*self.left_out, self.refused) if self.refused else self.left_out


class DiffError(SandboxError):
    """git could not make the diff in this sandbox; the message says why."""


class RefusedError(Exception):
    """The agent's files are such that no patch can be made of them; the message says why."""


def diff(sandbox: Sandbox, task: TaskInstance) -> str:
    """The agent's change since ``task.base_commit``, with new files and without caches.

    Commits, branches and the index of the agent make no difference. Bytes that are not UTF-8 become
    surrogate escapes.

    Returns:
        The diff; empty if nothing has changed.

    Raises:
        DiffError: git cannot make the diff, or it is larger than ``MAX_PATCH``.
        SandboxError: The sandbox has ended.
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
    """The agent's change like :func:`diff`, with a fallback for a broken repository.

    Args:
        sandbox: The agent's sandbox.
        task: The task.
        provider: Makes the fresh sandbox with which the files are compared if git fails.
        base: Full hash of the base commit in this sandbox; ``task.base_commit`` by default.
        since: Start of the agent's work in seconds since the epoch. Ignored files that are older
            are not reported as left out, because they came with the image.

    Raises:
        SandboxError: A sandbox has ended, or the fresh one fails too.
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
    """The diff of git, made in ``sandbox``.

    The output of the script cannot be forged by files of the agent: the answer follows a random
    mark, and the patch is written to a file in a new folder.

    Args:
        sandbox: The agent's sandbox, or the fresh one of ``rescue``.
        task: The task.
        base: As for :func:`extract`.
        since: As for :func:`extract`; None reports no ignored files.
        lenient: Whether files that git cannot add are left out and reported, instead of an error.

    Raises:
        DiffError: git cannot make the diff.
        SandboxError: The sandbox has ended.
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
        most_listed=MOST_LISTED + 1,
    )
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
    _, found, answer = done.output.partition(f"{mark}\0".encode())
    if done.exit_code != 0 or not found:
        raise DiffError(_words(done))
    path, size, unread, *rest = answer.decode("utf-8", "surrogateescape").split("\0")
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
    """The reason for which a patch of ``size`` is not graded."""
    return f"the patch is too large: {size}{MAX_PATCH >> 20} MiB, which is the limit"


def _explained(parts: list[str]) -> Iterator[str]:
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    for kind, name in pairs[:MOST_LISTED]:
        is_cache = name.rstrip("/").rpartition("/")[2] in CACHES
        yield f"{name} ({'a folder of tools' if is_cache else KINDS[kind]})"
    if len(pairs) > MOST_LISTED:
        yield "and more of this kind"


def _cause(sandbox: Sandbox, task: TaskInstance, words: str) -> str:
    """A sentence for the note: why git failed. ``words`` is the end of its output."""
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
    end = done.output.decode("utf-8", "replace").strip()[-300:]
    return " ".join(end.split()) or f"exit code {done.exit_code}"
