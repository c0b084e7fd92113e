"""No future in the repository: an agent must not find the fix in a later commit.

Images of the task families carry a whole clone, with branches, tags and loose objects from after
the task's commit. What came before stays (people read it, and versions are made of old tags).
"""

from __future__ import annotations

import logging

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

__all__ = ["scrub"]

log = logging.getLogger(__name__)

SECONDS = 600.0
# Nothing but base_commit's past: every ref lies in it, every object belongs to such a ref. What
# is outside the object store and may name later commits is listed in files().
CHECK = r"""
export GIT_NO_REPLACE_OBJECTS=1 base={base}
files() {{
  for name in FETCH_HEAD ORIG_HEAD MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG AUTO_MERGE \
      lost-found worktrees objects/info/alternates objects/info/commit-graph \
      objects/info/commit-graphs info/grafts; do
    [ -e .git/$name ] && printf '%s\n' "$name"
  done
  # a reflog that tells of the base commit alone tells nothing
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
# Refs first, then one pack of what they reach; all else that holds objects goes without a look.
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

ONE_COMMIT = ("pypi",)  # sources of tasks whose images this project makes, of one commit
_clean: set[tuple[str, str]] = set()  # images that need nothing, by name and base commit


def scrub(sandbox: Sandbox, task: TaskInstance) -> None:
    """Take all out of the sandbox's repository that came after ``task.base_commit``.

    HEAD's branch is set to that commit; files stay as they are. An image that was found clean is
    not looked at again by this process, and one that this project made not at all. Raises
    SandboxError where something would remain.
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
        said = (done.output + left.output).decode("utf-8", "replace").strip()
        raise SandboxError(f"later history remains in {task.image}: {said[-300:]}")
