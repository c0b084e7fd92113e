"""What the images of SWE-bench's descendants share: a conda environment named testbed, a checkout
in /testbed with all of its history, and hidden tests that come as a patch.

The scripts below turn that into a task: every sandbox begins at one commit, tagged ``BASE``, and in
the agent's sandbox that commit is the whole history, since the fix is often further up in it.
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
# What the image's makers left uncommitted belongs to the base, or it would look like the agent's
SNAPSHOT = f"""
git add -A .
{GIT} commit -q --no-verify --allow-empty -m base
git tag -f {BASE} >/dev/null
"""
# The commit alone: no branch, tag, remote or reflog, and no object that only those could reach
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
    """For the agent's commands: the tests' Python comes first. Empty where ``prefix`` is."""
    if not prefix:
        return {}
    conda = prefix.partition("/envs/")[0]
    return {"PATH": f"{prefix}/bin:{conda}/bin:{SYSTEM_PATH}"}


def touched(patch: str) -> list[str]:
    """All paths that a patch names, old and new, in order."""
    return list(dict.fromkeys(path for pair in _HEADER.findall(patch) for path in pair))


def test_files(test_patch: str) -> list[str]:
    """What is given to the test runner: files that are there after the patch, and hold code."""
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
    """The command that applies a patch which stands in the script."""
    body = patch if patch.endswith("\n") else patch + "\n"
    return f"git apply --whitespace=nowarn - <<'SWE_GYM_PATCH'\n{body}SWE_GYM_PATCH\n"


def back_to(commit: str, files: Iterable[str]) -> str:
    """Whatever the agent did to ``files``: they are as in ``commit`` again, or gone."""
    return f"""
for file in {" ".join(quoted(files))}; do
  if git cat-file -e {commit}:"$file" 2>/dev/null; then git checkout -q {commit} -- "$file"
  else rm -rf -- "$file"; fi
done
"""


def with_patch(test_patch: str) -> str:
    """The hidden tests, laid over the tree as the base has it."""
    if not test_patch.strip():
        return ""
    failed = f"[ $? = 0 ] || echo '{RESET_FAILED}'\n"
    return back_to(BASE, touched(test_patch)) + applied(test_patch) + failed


def eval_script(before: str, command: str, workdir: str = WORKDIR) -> str:
    return (
        f"cd {workdir}\n{ACTIVATE}{before}\necho '{START}'\n{command}\n"
        f"echo \"{EXIT} $?\"\necho '{END}'\n"
    )
