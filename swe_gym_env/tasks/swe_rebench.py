"""SWE-rebench: issues of several thousand Python repositories, collected automatically.

Each row contains how it is run (``install_config``) and in which image. All rows of the split
``filtered`` on the hub have an image; ``subset`` chooses another split.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks import recipe
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.files import Row, read_rows
from swe_gym_env.tasks.splits import split_tasks
from swe_gym_env.types import TaskInstance

HUB = "nebius/SWE-rebench"
IMAGE = "swerebench/sweb.eval.x86_64.{}:latest"
COMMAND = (
    "pytest --no-header -rA --tb=line --color=no -p no:cacheprovider -W ignore::DeprecationWarning"
)
# Parsers with the same ids that accept only the summary of a complete run
STRICTER = {"parse_log_pytest": "pytest_words"}


def load(
    path: str = "",
    split: str = "all",
    limit: int | None = None,
    subset: str = "filtered",
    heldout: int = 100,
    seed: int = 0,
    image: str = "",
    prefix: str = recipe.PREFIX,
) -> list[TaskInstance]:
    """Load tasks of SWE-rebench.

    Args:
        path: A file, folder or id on the hub, instead of the published data set.
        split: ``train``, ``heldout`` (``heldout`` tasks, drawn by ``seed``) or ``all``.
        image: Name that replaces the images of the rows; {} stands for the id in the form of image
            names.
        prefix: Folder of the tests' Python environment in the images; empty uses the image's PATH.

    Raises:
        SetupError: The rows cannot be read, or one is wrong.
    """
    rows = list(read_rows(path or HUB, subset))

    def task(row: Row) -> TaskInstance:
        return check(_task(row, image, prefix), row.where)

    return split_tasks(rows, split, heldout, seed, limit, task, lambda row: row.text("instance_id"))


def _task(row: Row, image: str, prefix: str) -> TaskInstance:
    instance_id, test_patch = row.text("instance_id"), row.text("test_patch")
    config = row.column("install_config")
    if not isinstance(config, Mapping):
        raise SetupError(f"{row.where}, column 'install_config': not an object: {config!r:.80}")
    before = recipe.with_patch(test_patch) + _exports(config)
    of_row = row.text("docker_image", "") or row.text("image_name", "") or IMAGE
    parser = config.get("log_parser") or "parse_log_pytest"
    if not isinstance(parser, str):
        raise SetupError(f"{row.where}, column 'install_config': log_parser is not a text")
    return TaskInstance(
        instance_id=instance_id,
        repo=row.text("repo"),
        base_commit=recipe.BASE,
        image=(image or of_row).format(instance_id.replace("__", "_1776_").lower()),
        problem_statement=row.text("problem_statement"),
        gold_patch=row.text("patch"),
        test_patch=test_patch,
        fail_to_pass=row.strings("FAIL_TO_PASS"),
        pass_to_pass=row.strings("PASS_TO_PASS"),
        eval_script=recipe.eval_script(before, _command(row, config, test_patch)),
        log_parser=STRICTER.get(parser, parser),
        workdir=recipe.WORKDIR,
        env=recipe.environment(prefix),
        source="swe_rebench",
        metadata={
            "version": row.text("version", ""),
            "base_commit": row.text("base_commit"),
            "setup": recipe.SNAPSHOT,
            "hide": recipe.ALONE,
        },
    )


def _command(row: Row, config: Mapping[str, Any], test_patch: str) -> str:
    command = config.get("test_cmd") or COMMAND
    if not isinstance(command, str):
        raise SetupError(
            f"{row.where}: test_cmd is no text; rows of SWE-rebench-V2 are not supported"
        )
    return " ".join([command, *recipe.quoted(recipe.test_files(test_patch))])


def _exports(config: Mapping[str, Any]) -> str:
    values = config.get("env_vars") or {}
    return "".join(
        f"export {name}={shlex.quote(str(value))}\n"
        for name, value in values.items()
        if value is not None
    )
