"""Know the hidden tests' files as they are when the tests run, and put other ones in their place.

Task sets lay down their tests in different ways. Most have a test patch, which their eval script
applies. The others only restore files of the repository; for them the part of the eval script
before the tests runs once in a sandbox without any change.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import unified_diff

from swe_gym_env.grading import patches, script
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

SECONDS = 60.0
TEXTS = (".py", ".rst", ".txt", ".md")
# The objects that git makes here lie outside of the repository, where no code looks for them later
CONTENTS = """
objects=$(mktemp -d) || exit 1
trap 'rm -rf "$objects"' EXIT
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$(cd "$(git rev-parse --git-path objects)" && pwd)"
export GIT_OBJECT_DIRECTORY=$objects GIT_INDEX_FILE=$objects/index
git read-tree BASE && git apply --cached --whitespace=nowarn - || exit 1
show() { git cat-file -s "$1" 2>/dev/null || { echo -1; return; }; git cat-file blob "$1"; echo; }
for name in NAMES; do show "BASE:$name"; show ":$name"; done
"""


@dataclass(frozen=True)
class HiddenFile:
    """A file of the hidden tests.

    Attributes:
        base: Its content at the base commit; None if there is no such file, or nobody knows.
        content: Its content when the tests run.
    """

    base: bytes | None
    content: bytes


def by_patch(sandbox: Sandbox, task: TaskInstance) -> dict[str, HiddenFile]:
    """The hidden tests' files by the test patch, by their paths.

    Args:
        sandbox: A sandbox in which no code of the agent has run. Nothing in it changes.
        task: A task with a test patch.

    Returns:
        The files that exist with the test patch. Empty if it does not apply to the base commit.
    """
    names = _names(task)
    text = CONTENTS.replace("BASE", shlex.quote(task.base_commit))
    text = text.replace("NAMES", " ".join(map(shlex.quote, names)))
    patch = task.test_patch if task.test_patch.endswith("\n") else task.test_patch + "\n"
    stdin = patch.encode("utf-8", "surrogateescape")
    done = sandbox.exec(text, timeout=SECONDS, cwd=task.workdir, stdin=stdin)
    if done.exit_code != 0 or done.dropped:
        return {}
    blobs = list[bytes | None]()
    rest = done.output
    while rest:
        size, _, rest = rest.partition(b"\n")
        blobs.append(None if size == b"-1" else rest[: int(size)])
        rest = rest if size == b"-1" else rest[int(size) + 1 :]
    pairs = zip(names, blobs[::2], blobs[1::2], strict=True)
    return {name: HiddenFile(base, new) for name, base, new in pairs if new is not None}


def by_script(sandbox: Sandbox, task: TaskInstance, timeout: float) -> dict[str, HiddenFile]:
    """The hidden tests' files by the part of the eval script that comes before the tests.

    Args:
        sandbox: A grading sandbox without any change. It is of no use afterwards.
        task: A task whose tests are files of the repository.
        timeout: Seconds for that part of the script.
    """
    sandbox.exec(script.before_tests(task.eval_script), timeout=timeout, cwd=task.workdir)
    found = {}
    for name in _names(task):
        try:
            found[name] = HiddenFile(None, sandbox.read(f"{task.workdir}/{name}"))
        except OSError:
            continue
    return found


def _names(task: TaskInstance) -> list[str]:
    return sorted(name for name in patches.hidden(task) if name.endswith(TEXTS))


def with_files(
    task: TaskInstance, files: Mapping[str, HiddenFile], new: Mapping[str, bytes]
) -> TaskInstance:
    """``task`` with the contents ``new`` in its test patch, also within its eval script.

    So the true content of these files is nowhere in the sandbox in which the script runs.
    """
    if not task.test_patch.strip():
        return task
    parts = []
    for part in re.split(r"(?m)^(?=diff --git )", task.test_patch):
        names = patches.named(part) & new.keys()
        parts += [_diff(name, files[name].base, new[name]) for name in names] or [part]
    patch = "".join(parts)
    text = task.eval_script.replace(task.test_patch.strip("\n"), patch.strip("\n"))
    return replace(task, test_patch=patch, eval_script=text)


def _diff(name: str, base: bytes | None, new: bytes) -> str:
    """A diff of one file that ``git apply`` reads."""
    old, now = _lines(base or b""), _lines(new)
    first = "/dev/null" if base is None else f"a/{name}"
    head = (
        f"diff --git a/{name} b/{name}\n{'new file mode 100644' if base is None else ''}".rstrip()
    )
    hunks = list(unified_diff(old, now, first, f"b/{name}"))
    body = (ln if ln.endswith("\n") else f"{ln}\n\\ No newline at end of file\n" for ln in hunks)
    return f"{head}\n{''.join(body)}"


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "surrogateescape")
    return [line for line in re.split(r"(?<=\n)", text) if line]
