"""Scripts for task sets in the style of SWE-bench.

Their images have a conda environment named testbed and a checkout in /testbed with the whole
history; the hidden tests are a patch. The scripts make a task of that: every sandbox begins at one
commit with the tag ``BASE``. In the agent's sandbox that commit is the whole history, since the
image's history often contains the fix.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from swe_gym_env.grading.parsers import END, EXIT, START

BASE = "swe-gym-base"
WORKDIR = "/testbed"
RESET_FAILED = ">>>>> Reset Failed"
PREFIX = "/opt/miniconda3/envs/testbed"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GIT = "git -c user.name=base -c user.email=base@localhost -c commit.gpgsign=false"
# Uncommitted changes in the image become part of the base, or they would count as the agent's
SNAPSHOT = f"""
git add -A .
{GIT} commit -q --no-verify --allow-empty -m base
git tag -f {BASE} >/dev/null
"""
# Keeps one commit only: no branch, tag, remote or reflog, and no object that only those reach
ALONE = f"""
commit=$({GIT} commit-tree -m base "$(git rev-parse '{BASE}^{{tree}}')")
git update-ref --no-deref HEAD "$commit"
git for-each-ref --format='delete %(refname)' | git update-ref --stdin
git tag {BASE} "$commit"
for remote in $(git remote); do git remote remove "$remote" 2>/dev/null || true; done
git reflog expire --expire=now --all
rm -rf .git/logs .git/ORIG_HEAD .git/FETCH_HEAD .git/MERGE_HEAD .git/shallow
rm -rf .git/objects/info/commit-graph* .git/objects/pack/*.keep .git/objects/pack/*.promisor
git repack -a -d -q
git prune --expire=now
"""
ACTIVATE = """
for conda in /opt/miniconda3 /opt/conda; do
  if [ -f $conda/bin/activate ]; then source $conda/bin/activate testbed; break; fi
done
"""
_HEADER = re.compile(r"^diff --git a/(.*) b/(.*)$", re.MULTILINE)
_NO_TESTS = (
    *(".json", ".png", ".csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl"),
    *(".yml", ".yaml", ".toml", ".cfg", ".ini", ".rst"),
)


def environment(prefix: str) -> dict[str, str]:
    """Variables for the agent's commands, so that PATH begins with the Python of the tests.

    Empty if ``prefix``, the folder of that environment, is empty.
    """
    if not prefix:
        return {}
    conda = prefix.partition("/envs/")[0]
    return {"PATH": f"{prefix}/bin:{conda}/bin:{SYSTEM_PATH}"}


def touched(patch: str) -> list[str]:
    """All paths that a patch names, old and new, in order."""
    return list(dict.fromkeys(path for pair in _HEADER.findall(patch) for path in pair))


def test_files(test_patch: str) -> list[str]:
    """Arguments of the test runner: files that exist after the patch and contain code."""
    files = []
    for part in re.split(r"(?m)^(?=diff --git )", test_patch):
        header = _HEADER.search(part)
        gone = re.search(r"^\+\+\+ /dev/null|^deleted file mode", part, re.MULTILINE)
        if header and not gone and not header[2].endswith(_NO_TESTS):
            files.append(header[2])
    return files


def quoted(words: Iterable[str]) -> list[str]:
    return [shlex.quote(word) for word in words]


def applied(patch: str) -> str:
    """A command that applies a patch, which is part of the script."""
    body = patch if patch.endswith("\n") else patch + "\n"
    return f"git apply --whitespace=nowarn - <<'SWE_GYM_PATCH'\n{body}SWE_GYM_PATCH\n"


def back_to(commit: str, files: Iterable[str]) -> str:
    """A command that makes ``files`` what they are in ``commit``, or removes them."""
    return f"""
for file in {" ".join(quoted(files))}; do
  if git cat-file -e {commit}:"$file" 2>/dev/null; then git checkout -q {commit} -- "$file"
  else rm -rf -- "$file"; fi
done
"""


def with_patch(test_patch: str) -> str:
    """A script that restores the test files of the base and applies the hidden tests."""
    if not test_patch.strip():
        return ""
    failed = f"[ $? = 0 ] || echo '{RESET_FAILED}'\n"
    return back_to(BASE, touched(test_patch)) + applied(test_patch) + failed


def eval_script(before: str, command: str, workdir: str = WORKDIR) -> str:
    return (
        f"cd {workdir}\n{ACTIVATE}{before}\necho '{START}'\n{command}\n"
        f"echo \"{EXIT} $?\"\necho '{END}'\n"
    )
