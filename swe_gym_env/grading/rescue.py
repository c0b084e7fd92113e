"""A patch without the agent's git: its files are compared with, and carried into, a fresh sandbox.

For what an agent can do to a repository and a disk: nothing is written in its sandbox, and nothing
of its ``.git`` is read. The fresh sandbox's own repository makes the patch.
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

PAGE = 400_000  # bytes of a listing at once: less than a sandbox keeps of a command's output
PAGES = 100
BATCH = 2_000  # files hashed at once
MOST_LISTED = 200_000  # files in a tree whose listing is given the time it takes
MOST_FILES = 20_000  # changed ones
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
    """What is at a path. ``kind``: as find's %y, f for a file and l for a link."""

    kind: str
    executable: bool
    size: int
    target: str = ""


def rescue(sandbox: Sandbox, task: TaskInstance, provider: SandboxProvider) -> Extracted:
    """The patch from the base commit to the files in ``sandbox``. Raises RefusedError for what the
    agent chose, SandboxError for a fault of either sandbox."""
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
    data = b""
    for page in range(PAGES):
        script = LIST.format(workdir=shlex.quote(task.workdir), first=page * PAGE + 1, page=PAGE)
        done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/")
        if done.timed_out and not _huge(sandbox, task):
            raise SandboxError(f"its files could not be listed within {GIT_SECONDS:.0f} s")
        if done.exit_code != 0 or done.dropped:
            said = done.output.decode("utf-8", "replace").strip()[-200:]
            said = f"more than {MOST_LISTED} files" if done.timed_out else said or "no folder"
            raise RefusedError(f"its files could not be listed: {said}")
        data += done.output
        if len(done.output) < PAGE:
            return dict(_entries(data))
    raise RefusedError(f"its list of files is longer than {PAGES * PAGE} bytes")


def _huge(sandbox: Sandbox, task: TaskInstance) -> bool:
    """Whether there are so many files that a slow listing is not the machine's fault."""
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
    """Without whole repositories that the agent put into the tree, and any ``.git``."""
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
    """Names whose content there is not what it is in a fresh copy."""
    same = [name for name, it in theirs.items() if it == ours.get(name)]
    files = [name for name in same if theirs[name].kind == "f"]
    hashes, wanted = _hashes(sandbox, task, files), _hashes(fresh, task, files)
    equal = {n for n in same if theirs[n].kind == "l" or hashes.get(n) == wanted.get(n)}
    return sorted(theirs.keys() - equal)


def _hashes(sandbox: Sandbox, task: TaskInstance, names: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for first in range(0, len(names), BATCH):
        said = _feed(sandbox, task, HASH, names[first : first + BATCH])
        for line in said.split(b"\0"):  # the hash, a space, a star, the name
            found[line[42:].decode("utf-8", "surrogateescape")] = line[:40]
    return found


def _bounded(theirs: dict[str, Entry], changed: list[str]) -> None:
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
    """Make the fresh tree what theirs is; the names that could not be read."""
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
    stdin = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
    script = script.format(workdir=shlex.quote(task.workdir))
    done = sandbox.exec(script, timeout=GIT_SECONDS, cwd="/", stdin=stdin)
    if done.exit_code != 0 or done.dropped:
        said = done.output.decode("utf-8", "replace").strip()[-200:]
        raise SandboxError(f"files could not be compared: {said or done.exit_code}")
    return done.output
