"""What an agent has changed so far, after each of its turns, for readers of the episode.

The verdict does not use it: the patch that is scored comes from ``grading/extract.py``, which does
not trust the sandbox. So this can be fast: git's index knows which files are unchanged. A copy of
the index is used, so that the agent's ``git status`` is not affected.
"""

from __future__ import annotations

from swe_gym_env.errors import InfraError
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

SECONDS = 10.0
UNKNOWN = "(git could not say what is changed from here on)\n"
LONGEST = 60_000  # characters kept of it
LOOK = """
export GIT_OPTIONAL_LOCKS=0 GIT_INDEX_FILE=.git/index.seen
cp .git/index "$GIT_INDEX_FILE" && git add -N . 2>/dev/null
git diff --no-color --no-ext-diff --no-textconv --no-renames {base} -- . \\
  ':(exclude,glob)**/__pycache__/**' ':(exclude,glob)**/.pytest_cache/**' ':(exclude)*.pyc'
code=$?; rm -f "$GIT_INDEX_FILE"; exit $code
"""


def changes(sandbox: Sandbox, task: TaskInstance) -> str:
    """The diff against ``task.base_commit``, with new files; ``UNKNOWN`` if git fails."""
    try:
        done = sandbox.exec(LOOK.format(base=task.base_commit), timeout=SECONDS, cwd=task.workdir)
    except (InfraError, OSError):  # a sandbox that is gone says so to the agent's next command
        return UNKNOWN
    if done.exit_code != 0:
        return UNKNOWN
    text = done.output.decode("utf-8", "replace")
    if done.dropped or len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n(the rest of the diff is left out)\n"
    return text
