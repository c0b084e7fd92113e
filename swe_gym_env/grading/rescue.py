"""Make the patch without the agent's repository: carry its files into a fresh sandbox.

This is the fallback of ``extract.py`` for a repository or a disk that the agent has broken. Nothing
is written in the agent's sandbox, and nothing of its ``.git`` is read. The files of both sandboxes
are listed and compared by kind, size and hash; changed ones are copied into the fresh sandbox,
whose repository then makes the patch. Everything is bounded: the length of the listing, the number
of changed files, and their bytes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swe_gym_env.errors import SandboxError
from swe_gym_env.grading.diff_script import CACHES, ENTER, READABLE
from swe_gym_env.grading.extract import (
    GIT_SECONDS,
    MOST_BYTES,
    DiffError,
    Extracted,
    RefusedError,
    in_sandbox,
    moment,
)
from swe_gym_env.sandbox.base import Sandbox, SandboxProvider
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import TaskInstance

PAGE = 400_000  # bytes of one page of a listing; less than a sandbox keeps of a command's output
PAGES = 100
BATCH = 2_000  # files hashed by one command
MOST_LISTED = 200_000  # a tree with more files may be the reason for a slow listing
MOST_FILES = 20_000  # changed files
# One record for each path, NUL-separated: kind/permissions/size/path//target of a link. In a nested
# repository only its .git is listed.
LIST = (
    ENTER
    + READABLE
    + r"""2>/dev/null
find . -path ./.git -prune -o \( -type d ! -name .git \) -o -printf '%y/%m/%s/%P//%l\0' \
  -name .git -prune | sort -z | tail -c +{first} | head -c {page}
"""
)
COUNT = ENTER + "find . -path ./.git -prune -o -print | head -n {most} | wc -l\n"
HASH = ENTER + "xargs -0 -r sha1sum -bz -- 2>/dev/null || true\n"
REMOVE = ENTER + "xargs -0 -r rm -rf --\n"
EXECUTABLE = ENTER + "xargs -0 -r chmod a+x --\n"
LINK = (
    ENTER
    + """
while IFS= read -r -d '' name && IFS= read -r -d '' target; do
  mkdir -p -- "$(dirname -- "./$name")" && ln -s -- "$target" "./$name" || exit 1
done
"""
)


@dataclass(frozen=True)
class Entry:
    """What exists at a path.

    Attributes:
        kind: As printed by ``find -printf %y``: f for a file, l for a symbolic link.
        executable: Whether its owner may execute it; False for anything but a file.
        size: In bytes; 0 for anything but a file.
        target: Where a link leads.
    """

    kind: str
    executable: bool
    size: int
    target: str = ""


def rescue(sandbox: Sandbox, task: TaskInstance, provider: SandboxProvider) -> Extracted:
    """The patch from the base commit to the files in ``sandbox``.

    Args:
        sandbox: The agent's sandbox.
        task: The task.
        provider: Makes the fresh sandbox.

    Raises:
        RefusedError: The agent's files exceed a limit; that is the agent's doing.
        SandboxError: One of the sandboxes failed.
    """
    theirs = _listing(sandbox, task)
    fresh = start(provider, task)
    try:
        try:
            ours = _listing(fresh, task)
        except RefusedError as error:
            raise SandboxError(f"a fresh copy of the image cannot be read: {error}") from None
        theirs = {name: it for name, it in theirs.items() if name in ours or not _cached(name)}
        theirs = dict(_without_repositories(theirs, ours))
        odd = sorted(name for name, it in theirs.items() if it.kind not in "fl")
        theirs = {name: it for name, it in theirs.items() if it.kind in "fl"}
        changed = _changed(sandbox, fresh, task, theirs, ours)
        _bounded(theirs, changed)
        began = moment()
        lost = _carry(sandbox, fresh, task, theirs, ours, changed)
        found = in_sandbox(fresh, task, since=began, lenient=True)
    except (OSError, DiffError) as error:
        raise SandboxError(f"a fresh sandbox cannot make the diff: {error}") from error
    finally:
        fresh.close()
    left_out = [*(f"{name} (could not be read)" for name in lost)]
    left_out += [f"{name} (neither a file nor a link)" for name in odd]
    return replace(found, left_out=(*found.left_out, *left_out[:20]))


def _listing(sandbox: Sandbox, task: TaskInstance) -> dict[str, Entry]:
    """What exists in the working folder, by path. Raises RefusedError, SandboxError."""
    data = b""
    for page in range(PAGES):
        script = LIST.format(workdir=shlex.quote(task.workdir), first=page * PAGE + 1, page=PAGE)
        done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
        if done.timed_out and not _huge(sandbox, task):
            raise SandboxError(f"its files could not be listed within {GIT_SECONDS:.0f} s")
        if done.exit_code != 0 or done.dropped:
            end = done.output.decode("utf-8", "replace").strip()[-200:]
            why = f"more than {MOST_LISTED} files" if done.timed_out else end or "no folder"
            raise RefusedError(f"its files could not be listed: {why}")
        data += done.output
        if len(done.output) < PAGE:
            return dict(_entries(data))
    raise RefusedError(f"its list of files is longer than {PAGES * PAGE} bytes")


def _huge(sandbox: Sandbox, task: TaskInstance) -> bool:
    """Whether a slow listing is due to the number of files and not to a slow machine."""
    script = COUNT.format(workdir=shlex.quote(task.workdir), most=MOST_LISTED + 1)
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
    return done.output.strip() == b"%d" % (MOST_LISTED + 1)


def _entries(data: bytes) -> Iterator[tuple[str, Entry]]:
    for record in data.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        kind, mode, size, rest = record.split("/", 3)
        name, _, target = rest.partition("//")
        executable = kind == "f" and bool(int(mode, 8) & 0o100)
        yield name, Entry(kind, executable, int(size) if kind == "f" else 0, target)


def _cached(name: str) -> bool:
    return any(part in CACHES for part in name.split("/")) or name.endswith(".pyc")


def _without_repositories(
    theirs: dict[str, Entry], ours: dict[str, Entry]
) -> Iterator[tuple[str, Entry]]:
    """Leave out repositories that the agent put into the tree, and every ``.git``."""
    folders = {name.rpartition("/")[0] for name in theirs if name.endswith("/.git")}
    new = tuple(f"{f}/" for f in folders if not any(name.startswith(f"{f}/") for name in ours))
    for name, entry in theirs.items():
        if not name.startswith(new) and not name.endswith("/.git"):
            yield name, entry


def _changed(
    sandbox: Sandbox,
    fresh: Sandbox,
    task: TaskInstance,
    theirs: dict[str, Entry],
    ours: dict[str, Entry],
) -> list[str]:
    """Paths of the agent's tree that are new, or differ from the fresh copy."""
    same = [name for name, it in theirs.items() if it == ours.get(name)]
    files = [name for name in same if theirs[name].kind == "f"]
    hashes, wanted = _hashes(sandbox, task, files), _hashes(fresh, task, files)
    equal = {n for n in same if theirs[n].kind == "l" or hashes.get(n) == wanted.get(n)}
    return sorted(theirs.keys() - equal)


def _hashes(sandbox: Sandbox, task: TaskInstance, names: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for first in range(0, len(names), BATCH):
        output = _feed(sandbox, task, HASH, names[first : first + BATCH])
        for line in output.split(b"\0"):  # 40 digits of the hash, a space, a star, the name
            found[line[42:].decode("utf-8", "surrogateescape")] = line[:40]
    return found


def _bounded(theirs: dict[str, Entry], changed: list[str]) -> None:
    """Raise RefusedError if the changed files exceed a limit."""
    total = sum(theirs[name].size for name in changed)
    if total > MOST_BYTES:
        most = max(changed, key=lambda name: theirs[name].size)
        raise RefusedError(
            f"its changed files hold {total >> 20} MiB, of which {most!r} {theirs[most].size >> 20}"
            f" MiB; the limit is {MOST_BYTES >> 20} MiB"
        )
    if len(changed) > MOST_FILES:
        raise RefusedError(f"it changed {len(changed)} files; the limit is {MOST_FILES}")


def _carry(
    sandbox: Sandbox,
    fresh: Sandbox,
    task: TaskInstance,
    theirs: dict[str, Entry],
    ours: dict[str, Entry],
    changed: list[str],
) -> list[str]:
    """Make the fresh tree equal to the agent's. Returns the paths that could not be read."""
    gone = [name for name in ours if name not in theirs and not _cached(name)]
    _feed(fresh, task, REMOVE, [*gone, *changed])
    lost = []
    for name in changed:
        if theirs[name].kind == "f":
            try:
                data = sandbox.read(f"{task.workdir}/{name}")
            except OSError:
                lost.append(name)
                continue
            fresh.write(f"{task.workdir}/{name}", data)
    _feed(fresh, task, EXECUTABLE, [n for n in changed if theirs[n].executable and n not in lost])
    links = [name for name in changed if theirs[name].kind == "l"]
    _feed(fresh, task, LINK, [part for name in links for part in (name, theirs[name].target)])
    return lost


def _feed(sandbox: Sandbox, task: TaskInstance, script: str, names: Iterable[str]) -> bytes:
    """Run a script with names on its standard input, NUL-separated. Returns its output."""
    stdin = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
    script = script.format(workdir=shlex.quote(task.workdir))
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/", stdin=stdin)
    if done.exit_code != 0 or done.dropped:
        end = done.output.decode("utf-8", "replace").strip()[-200:]
        raise SandboxError(f"files could not be compared: {end or done.exit_code}")
    return done.output
