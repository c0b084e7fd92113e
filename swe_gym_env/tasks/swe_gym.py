"""SWE-Gym: 2 438 issues of eleven Python repositories, each in a Docker image of its own.

Rows have no image, test command or parser: those are conventions of SWE-Gym's fork of the SWE-bench
harness, written down here. Unlike that harness, nothing is installed again before the tests, since
a sandbox has no network; the images come installed.

The paper that this project follows trains on 2 338 tasks and holds 100 out without saying which.
Here the 100 are drawn by ``heldout.split_tasks``.
"""

from __future__ import annotations

import re

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks import recipe
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.files import Row, read_rows
from swe_gym_env.tasks.splits import split_tasks
from swe_gym_env.types import TaskInstance

HUB = "SWE-Gym/SWE-Gym"
IMAGE = "xingyaoww/sweb.eval.x86_64.{}:latest"
# `-p no:pretty`: the plugin of pydantic's environment prints a table in place of the summary
COMMANDS = {
    "bokeh/bokeh": "pytest -rA -n0",
    "conan-io/conan": "PYTHONPATH=${PYTHONPATH:-}:$(pwd) pytest -n0 -rA",
    "dask/dask": "pytest -n0 -rA --color=no",
    "facebookresearch/hydra": "pytest -rA --tb=long",
    "getmoto/moto": "pytest -n0 -rA",
    "iterative/dvc": "pytest -rA",
    "modin-project/modin": "pytest -n0 -rA",
    "pandas-dev/pandas": "pytest -rA --tb=long",
    "project-monai/monai": "pytest -rA",
    "pydantic/pydantic": "pytest -rA --tb=short -vv -o console_output_style=classic --no-header "
    "-p no:pretty",
    "python/mypy": "pytest -n0 -rA",
}
_CASE = re.compile(r"\[case ([^\]]+)\]")


def load(
    path: str = "",
    split: str = "all",
    limit: int | None = None,
    heldout: int = 100,
    seed: int = 0,
    image: str = IMAGE,
    prefix: str = recipe.PREFIX,
) -> list[TaskInstance]:
    """``path``: a file, folder or hub id in place of SWE-Gym's own.

    ``split``: train, heldout (``heldout`` tasks, drawn by ``seed``) or all. ``image``: {} stands
    for the id as image names have it. ``prefix``: the environment of the tests' Python in the
    images; "" leaves that to the image's own PATH. Raises SetupError.
    """
    rows = list(read_rows(path or HUB, "train"))

    def task(row: Row) -> TaskInstance:
        return check(_task(row, image, prefix), row.where)

    return split_tasks(rows, split, heldout, seed, limit, task, lambda row: row.text("instance_id"))


def _task(row: Row, image: str, prefix: str) -> TaskInstance:
    instance_id, test_patch = row.text("instance_id"), row.text("test_patch")
    repo = row.text("repo")
    if repo.lower() not in COMMANDS:
        raise SetupError(f"{row.where}: no test command is known for the repository {repo!r}")
    return TaskInstance(
        instance_id=instance_id,
        repo=repo,
        base_commit=recipe.BASE,
        image=image.format(instance_id.replace("__", "_s_").lower()),
        problem_statement=row.text("problem_statement"),
        gold_patch=row.text("patch"),
        test_patch=test_patch,
        fail_to_pass=row.strings("FAIL_TO_PASS"),
        pass_to_pass=row.strings("PASS_TO_PASS"),
        eval_script=recipe.eval_script(recipe.with_patch(test_patch), _command(repo, test_patch)),
        log_parser="pytest_words",
        workdir=recipe.WORKDIR,
        env=recipe.environment(prefix),
        source="swe_gym",
        metadata={
            "version": row.text("version", ""),
            "base_commit": row.text("base_commit"),
            "setup": recipe.SNAPSHOT,
            "hide": recipe.ALONE,
        },
    )


def _command(repo: str, test_patch: str) -> str:
    """mypy's tests are cases in data files, named in the patch; all others are files of code."""
    command = COMMANDS[repo.lower()]
    cases = _CASE.findall(test_patch) if repo == "python/mypy" else []
    if cases:
        return f'{command} -k "{" or ".join(cases)}"'
    return " ".join([command, *recipe.quoted(recipe.test_files(test_patch))])
