"""Make repositories with a history of one commit, for all task sets.

Names and dates are fixed, so that the same files have the same commit on every machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from swe_gym_env.errors import SWEGymError
from swe_gym_env.sandbox import images

GIT_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "maintainer",
    "GIT_AUTHOR_EMAIL": "maintainer@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "maintainer",
    "GIT_COMMITTER_EMAIL": "maintainer@example.org",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00+0000",
}
# Every task is made by this, so it starts few processes: settings are written to the file directly
COMMIT = r"""
git init -q --template= -b main . && mkdir -p .git/info && : > .git/info/exclude
printf '[user]\n\tname = developer\n\temail = developer@example.org\n' >> .git/config
printf '[gc]\n\tauto = 0\n' >> .git/config
git add -A -f . && git commit -q -m 'Import'
read -r commit < .git/refs/heads/main && echo "$commit"
"""
SCRATCH = """
export GIT_INDEX_FILE="$SCRATCH/index" GIT_OBJECT_DIRECTORY="$SCRATCH/objects"
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$PWD/.git/objects"; mkdir -p "$GIT_OBJECT_DIRECTORY"
git read-tree HEAD
"""
PATCHED = SCRATCH + 'git apply --cached "$SCRATCH/patch" && git write-tree'
CHANGED = (
    SCRATCH
    + """
xargs -0 git --git-dir=.git --work-tree="$OTHER" add -A -f -- < "$SCRATCH/files"
xargs -0 git diff --cached --binary --no-renames HEAD -- < "$SCRATCH/files"
"""
)


def git(script: str, tree: Path, stdin: bytes = b"", **env: str) -> str:
    """Run a bash script of git commands in ``tree``. Raises SWEGymError that quotes git."""
    command = ["bash", "-e", "-c", script]
    done = subprocess.run(
        command, cwd=tree, env={**GIT_ENV, **env}, input=stdin, capture_output=True
    )
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise SWEGymError(f"git failed in {tree}: {words[-500:]}")
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def commit(tree: Path) -> str:
    """Make ``tree`` a repository with one commit. Returns the commit's hash."""
    return git(COMMIT, tree)


def tree_id(tree: Path, scratch: Path) -> str:
    """git's hash of the content of a folder."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    script = 'git init -q --bare "$G"; git --git-dir="$G" --work-tree=. add -A -f .; '
    result = git(script + 'git --git-dir="$G" write-tree', tree, G=str(scratch / "git"))
    shutil.rmtree(scratch)
    return result


def patched_id(tree: Path, patch: str, scratch: Path) -> str:
    """git's hash of a repository's commit with ``patch`` applied. The files do not change."""
    return _with(PATCHED, tree, scratch, patch=patch)


def difference(tree: Path, other: Path, files: Sequence[str], scratch: Path) -> str:
    """The patch from a repository's commit to the state of ``files`` in the folder ``other``."""
    found = _with(CHANGED, tree, scratch, other=str(other), files="\0".join(files))
    return found + "\n" if found else ""


def _with(script: str, tree: Path, scratch: Path, other: str = "", **files: str) -> str:
    scratch.mkdir()
    try:
        for name, text in files.items():
            (scratch / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        return git(script, tree, SCRATCH=str(scratch), OTHER=other)
    finally:
        shutil.rmtree(scratch)


def sandbox_env(source: str) -> Mapping[str, str]:
    """Variables with which commands find the environment and the package under test.

    The environment is mounted at /opt/env. The package is not installed in it.

    Args:
        source: Folder of the tree that contains the package.
    """
    return {
        "PATH": "/opt/env/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": "/testbed" if source == "." else f"/testbed/{source}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "LANG": "C.UTF-8",
        # The tree may belong to another user than the one in the sandbox
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


def publish(aside: Path, name: str) -> Path:
    """Move a finished image to its place. An equal one there is kept: a sandbox may be using it."""
    final = images.path_of(name)
    if _same(aside, final):
        shutil.rmtree(aside)
    else:
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    return final


def _same(one: Path, two: Path) -> bool:
    """Whether two images have the same commit and the same settings."""
    files = ("image.json", "tree/.git/refs/heads/main")
    try:
        return all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    except FileNotFoundError:
        return False
