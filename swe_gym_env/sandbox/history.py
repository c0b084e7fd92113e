"""Remove later history from a repository, so that an agent cannot find the fix in a later commit.

Images of the task families contain a whole clone, with branches, tags and loose objects that are
newer than the task's commit. Older history stays: people read it, and version numbers are made from
old tags.
"""

from __future__ import annotations

import logging

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

__all__ = ["scrub"]

log = logging.getLogger(__name__)

SECONDS = 600.0
# Exit code 0 if only the history before base_commit is there: every ref is an ancestor of it, and
# every object is reachable from such a ref. files() lists files beside the object store that may
# name later commits. Exit code 3 if the repository has no such commit.
CHECK = r"""
export GIT_NO_REPLACE_OBJECTS=1 base={base}
files() {{
  for name in FETCH_HEAD ORIG_HEAD MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG AUTO_MERGE \
      lost-found worktrees objects/info/alternates objects/info/commit-graph \
      objects/info/commit-graphs info/grafts; do
    [ -e .git/$name ] && printf '%s\n' "$name"
  done
  # a reflog that holds only the base commit reveals nothing
  [ -d .git/logs ] && grep -rqvE "^[0-9a-f]+ $base " .git/logs && echo logs
  grep -q '^\[remote ' .git/config && echo remotes
}}
stale() {{
  [ "$(git rev-parse HEAD)" = "$base" ] || echo HEAD
  git for-each-ref --format='%(refname)' | grep -vxFf <(git for-each-ref --merged="$base" \
    --format='%(refname)' refs/heads refs/tags; echo) | head -1
  set -- $(git count-objects -v | awk '/^(count|in-pack):/ {{n += $2}} END {{print n}}') \
    $(git rev-list --objects --no-object-names --all "$base" | wc -l)
  [ "$1" = "$2" ] || echo "objects: $1, of the past $2"
}}
[ -d .git ] || exit 0
git cat-file -e "$base^{{commit}}" 2>/dev/null || {{ echo "no commit $base"; exit 3; }}
found=$(files; stale)
[ -z "$found" ] || {{ echo "$found"; exit 1; }}
"""
# Later refs are deleted first, then all objects that the others reach are packed into one file, and
# everything else that may hold objects is deleted without reading it.
SCRUB = r"""
set -e
export GIT_NO_REPLACE_OBJECTS=1 base={base}
git reset -q "$base" >/dev/null
for name in $(git remote); do git remote remove "$name"; done
git for-each-ref --format='%(refname)' | grep -vxFf <(git for-each-ref --merged="$base" \
  --format='%(refname)' refs/heads refs/tags; echo) | sed 's/^/delete /' \
  | git update-ref --no-deref --stdin || true
cd .git
rm -rf logs FETCH_HEAD ORIG_HEAD *_HEAD BISECT_* AUTO_MERGE lost-found worktrees info/grafts
rm -f objects/pack/*.keep
git -c pack.window=0 -c repack.writeBitmaps=false repack -adq
rm -rf objects/info/alternates objects/info/commit-graph*
find objects -mindepth 1 -maxdepth 1 -name '[0-9a-f][0-9a-f]' -exec rm -rf {{}} +
"""

ONE_COMMIT = ("pypi",)  # task families whose images this project makes, each with one commit
_clean: set[tuple[str, str]] = set()  # (image, base commit) that have no later history


def scrub(sandbox: Sandbox, task: TaskInstance) -> None:
    """Remove all history after ``task.base_commit`` from the repository of the sandbox.

    The branch of HEAD is set to that commit; the files of the tree do not change. An image that
    needed nothing is not checked again by this process, and images that this project made are not
    checked at all.

    Raises:
        SandboxError: Something of the later history would remain.
    """
    key = (task.image, task.base_commit)
    if task.source in ONE_COMMIT or key in _clean:
        return
    check = CHECK.format(base=task.base_commit)
    seen = sandbox.exec(check, timeout=SECONDS, cwd=task.workdir)
    if seen.exit_code == 0:
        _clean.add(key)
        return
    if seen.exit_code == 3:
        log.warning("%s: %s", task.instance_id, seen.output.decode("utf-8", "replace").strip())
        return
    done = sandbox.exec(SCRUB.format(base=task.base_commit), timeout=SECONDS, cwd=task.workdir)
    left = sandbox.exec(check, timeout=SECONDS, cwd=task.workdir)
    if left.exit_code != 0:
        output = (done.output + left.output).decode("utf-8", "replace").strip()
        raise SandboxError(f"later history remains in {task.image}: {output[-300:]}")
