"""SWE-Gym: 2 438 issues of eleven Python repositories, each with a separate Docker image.

Rows have no image, test command or parser. These are conventions of SWE-Gym's fork of the SWE-bench
harness and are written down here. Unlike that harness, nothing is installed again before the tests,
since a sandbox has no network and the packages are installed in the images.

The paper that this project follows trains on 2 338 tasks and holds out 100, which it does not name.
Here the 100 are drawn by ``splits.split_tasks``.
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
# `-p no:pretty`: that plugin in pydantic's environment prints a table instead of the summary
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
    """Load tasks of SWE-Gym.

    Args:
        path: A file, folder or id on the hub, instead of the published data set.
        split: ``train``, ``heldout`` (``heldout`` tasks, drawn by ``seed``) or ``all``.
        image: Name of the images, in which {} stands for the id in the form of image names.
        prefix: Folder of the tests' Python environment in the images; empty uses the image's PATH.

    Raises:
        SetupError: The rows cannot be read, or one is wrong.
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
    """The test command. Tests of mypy are cases in data files, all others are code files."""
    command = COMMANDS[repo.lower()]
    cases = _CASE.findall(test_patch) if repo == "python/mypy" else []
    if cases:
        return f'{command} -k "{" or ".join(cases)}"'
    return " ".join([command, *recipe.quoted(recipe.test_files(test_patch))])
