"""SWE-smith: 59 000 injected bugs in 128 Python repositories, with one image per repository.

The image contains the repository without the bug, and the ``patch`` of a row is the bug. So every
sandbox first applies it as in the branches of the upstream project: one commit with the bug and the
tests, and a second one without the files of FAIL_TO_PASS, at which the agent begins. (The branches
themselves would have to be fetched from GitHub.) The gold patch is the reverse of the bug.

A few repositories are not tested by ``pytest --verbose`` in the environment ``testbed``. Their
rows, and those without a problem statement, are left out; the log says how many.
"""

from __future__ import annotations

import logging

from swe_gym_env.tasks import recipe
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.files import Row, read_rows
from swe_gym_env.tasks.reverse import reverse
from swe_gym_env.tasks.splits import split_tasks
from swe_gym_env.types import TaskInstance

log = logging.getLogger(__name__)

HUB = "SWE-bench/SWE-smith"
# Upstream parses the lines of --verbose; the summary of -rA has the same ids and can be verified
COMMAND = "pytest --disable-warnings --color=no --tb=no --verbose -rA"
OTHERWISE_TESTED = (
    "HIPS__autograd",
    "mido__mido",
    "pydantic__pydantic",
    "python__mypy",
    "tornadoweb__tornado",
    "un33k__python-slugify",
)
TESTS = "swe-gym-tests"  # tag of the commit with the hidden tests; removed for the agent


def load(
    path: str = "",
    split: str = "all",
    limit: int | None = None,
    heldout: int = 100,
    seed: int = 0,
    image: str = "",
    prefix: str = recipe.PREFIX,
) -> list[TaskInstance]:
    """``path``: a file, folder or hub id in place of the data set's own.

    ``split``: train, heldout (``heldout`` tasks, drawn by ``seed``) or all. ``image``: in place of
    the rows' own. ``prefix``: the environment of the tests' Python in the images; "" leaves that
    to the image's own PATH. Raises SetupError.
    """
    rows = list(read_rows(path or HUB, "train"))
    tested = [row for row in rows if not row.text("instance_id").startswith(OTHERWISE_TESTED)]
    # Not every bug of theirs has got an issue written for it
    kept = [row for row in tested if row.text("problem_statement").strip()]
    for reason, left in {
        "not tested by pytest": len(rows) - len(tested),
        "without a problem statement": len(tested) - len(kept),
    }.items():
        if left:
            log.info("%d of %d rows are left out: %s", left, len(rows), reason)

    def task(row: Row) -> TaskInstance:
        return check(_task(row, image, prefix), row.where)

    return split_tasks(kept, split, heldout, seed, limit, task, lambda row: row.text("instance_id"))


def _task(row: Row, image: str, prefix: str) -> TaskInstance:
    bug = row.text("patch")
    fail, keep = row.strings("FAIL_TO_PASS"), row.strings("PASS_TO_PASS")
    hidden = _files(fail)
    files = list(dict.fromkeys([*hidden, *_files(keep)]))
    return TaskInstance(
        instance_id=row.text("instance_id"),
        repo=row.text("repo"),
        base_commit=recipe.BASE,
        image=image or _image(row.text("image_name")),
        problem_statement=row.text("problem_statement"),
        gold_patch=reverse(bug),
        test_patch="",
        fail_to_pass=fail,
        pass_to_pass=keep,
        eval_script=recipe.eval_script(
            recipe.back_to(TESTS, files), " ".join([COMMAND, *recipe.quoted(files)])
        ),
        log_parser="pytest_words",
        workdir=recipe.WORKDIR,
        env=recipe.environment(prefix),
        source="swe_smith",
        metadata={"setup": _setup(bug, hidden), "hide": recipe.ALONE},
    )


def _setup(bug: str, hidden: list[str]) -> str:
    names = " ".join(recipe.quoted(hidden))
    return (
        f"{recipe.applied(bug)}{recipe.SNAPSHOT}\ngit tag -f {TESTS} >/dev/null\n"
        f"git rm -q --ignore-unmatch -- {names}\n{recipe.SNAPSHOT}"
    )


def _files(tests: tuple[str, ...]) -> list[str]:
    return sorted({test.partition("::")[0] for test in tests})


def _image(name: str) -> str:
    """The name of an image in its present form: with an account, and without ``__``."""
    if "/" not in name:
        name = f"jyangballin/{name.replace('__', '_1776_')}"
    return name if ":" in name else f"{name}:latest"
