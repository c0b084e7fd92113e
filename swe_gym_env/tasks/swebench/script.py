"""The eval script: it restores the hidden tests and runs them between two markers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from swe_gym_env.tasks.swebench.patches import changes

END_OF_PATCH = "EOF_TEST_PATCH"


def eval_script(base: str, test_patch: str, command: str, *, prepare: Sequence[str] = ()) -> str:
    """Write the eval script.

    It first undoes all changes of the files of the test patch, including new files with the same
    names, so that the patch applies whatever the agent wrote.

    Args:
        base: The base commit.
        test_patch: The hidden tests.
        command: Runs the tests in /testbed.
        prepare: Lines that come first.
    """
    tests = changes(test_patch)
    text = test_patch if test_patch.endswith("\n") else test_patch + "\n"
    old = " ".join(shlex.quote(change.old) for change in tests if change.old)
    new = " ".join(shlex.quote(change.new) for change in tests if not change.old)
    lines = [*prepare, "cd /testbed || exit 1"]
    lines += [f"rm -rf -- {new}"] if new else []
    lines += [f"git checkout -q {base} -- {old} || echo '>>>>> Reset Failed'"] if old else []
    lines += [
        f"git apply - <<'{END_OF_PATCH}' || echo '>>>>> Reset Failed'",
        f"{text}{END_OF_PATCH}",
        "echo '>>>>> Start Test Output'",
        f"{command} </dev/null 2>&1",
        "echo '>>>>> End Test Output'",
    ]
    return "\n".join(lines) + "\n"
