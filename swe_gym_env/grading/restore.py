"""Put the tests' surroundings back just before the tests run.

An eval script may install the package first, and so run code of the patch (``setup.py``), which can
write anywhere in the repository. The folders of the hidden tests are therefore kept as an archive
before that, whose checksum the grader knows, and are unpacked between the installation and the
tests. Edits of the patch in these folders are undone in the same way, unless the gold patch changes
the same files: a helper or a data file decides as much as a test does.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from swe_gym_env.grading import patches
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

SECONDS = 120.0
ARCHIVE = ".git/swe_gym_tests.tar"
KEEP = f"""
set -- FOLDERS
for name; do shift; [ -d "$name" ] && [ ! -L "$name" ] && set -- "$@" "$name"; done
[ $# -gt 0 ] || exit 0
tar cf {ARCHIVE} --exclude=__pycache__ --anchored --no-wildcards EXCLUDED -- "$@" || exit 0
printf '%s ' "$(sha256sum <{ARCHIVE})"; printf ' %q' "$@"
"""
# New modules in these folders are removed, because Python or pytest may find them there. Other new
# files are left: no test knows of them.
UNPACK = f"""
[ "$(sha256sum <{ARCHIVE})" = 'SUM' ] || exit
for name in ABOVE; do [ -L "$name" ] && rm -f -- "$name"; done
find FOLDERS -name __pycache__ -prune -exec rm -rf {{}} +
{{ tar tf {ARCHIVE}; printf '%s\\n' EXCLUDED; }} | LC_ALL=C sort >{ARCHIVE}.kept
find FOLDERS ! -type d -name '*.py*' -print | LC_ALL=C sort |
  LC_ALL=C comm -13 {ARCHIVE}.kept - | tr '\\n' '\\0' | xargs -0 -r rm -f --
tar xf {ARCHIVE}
"""


def keep(sandbox: Sandbox, task: TaskInstance) -> str:
    """Archive the folders of the hidden tests as they are now.

    Args:
        sandbox: A grading sandbox, before anything of the patch is in it.
        task: The task.

    Returns:
        Shell commands that put the folders back. Empty if there are none, or ``tar`` is missing.

    Raises:
        SandboxError: The sandbox has ended.
    """
    hidden = patches.hidden(task)
    wanted = sorted({folder for name in hidden if (folder := _folder(name))})
    if not wanted:
        return ""
    others = sorted(hidden | patches.named(task.gold_patch))
    excluded = " ".join(f"--exclude={shlex.quote(name)}" for name in others)
    text = KEEP.replace("FOLDERS", _quoted(wanted)).replace("EXCLUDED", excluded)
    done = sandbox.exec(text, timeout=SECONDS, cwd=task.workdir)
    found = re.match(r"([0-9a-f]{64}  -)  (\S.*)", done.output.decode("utf-8", "replace"))
    if done.exit_code != 0 or not found:
        return ""
    above = {folder for name in wanted for folder in (name, *patches.above(name))}
    text = UNPACK.replace("SUM", found[1]).replace("FOLDERS", found[2])
    return text.replace("ABOVE", _quoted(sorted(above))).replace("EXCLUDED", _quoted(others))


def _folder(name: str) -> str:
    """The outermost folder for tests that contains ``name``; empty if there is none."""
    parts = PurePosixPath(name).parts[:-1]
    at = next((n for n, part in enumerate(parts) if part in patches.TEST_ROOTS), None)
    return "" if at is None else "/".join(parts[: at + 1])


def written(files: Mapping[str, bytes]) -> str:
    """Shell commands that write ``files``, whatever stands in their place."""
    lines = []
    for name, data in sorted(files.items()):
        path, folder = shlex.quote(name), shlex.quote(str(PurePosixPath(name).parent))
        lines += [f"rm -rf -- {path}; mkdir -p -- {folder}"]
        lines += [f"base64 -d >{path} <<'END'", base64.b64encode(data).decode(), "END"]
    return "\n".join(lines)


def block(workdir: str, commands: Iterable[str]) -> str:
    """``commands`` as a part of an eval script that says nothing and changes nothing else in it."""
    text = "\n".join(filter(None, commands))
    if not text:
        return ""
    quiet = ">/dev/null 2>&1 </dev/null || :"
    return f"(\nset +exuo pipefail\ncd {shlex.quote(workdir)} || exit\n{text}\n) {quiet}"


def _quoted(words: Iterable[str]) -> str:
    return " ".join(map(shlex.quote, words))
