"""SWE-bench: Verified, Lite and the full test set, in Docker images or rebuilt from PyPI.

``build="docker"`` takes the published images. ``build="sdist"`` makes each repository again from
the first source distribution that contains the row's fix (``rebuild.py``), for the local store:
no Docker and no registry, but not the same tree, so scores on it are named apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Literal

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.files import Row, read_rows, unique
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.tasks.swebench.docker import complete
from swe_gym_env.types import TaskInstance

HUB = {
    "verified": "SWE-bench/SWE-bench_Verified",
    "lite": "SWE-bench/SWE-bench_Lite",
    "full": "SWE-bench/SWE-bench",
}
BUILT = True  # with build="sdist"
SPLITS = ("test", "all", "train", "heldout", "dev")
# For experiments with nothing else to train on. What has trained on these must not claim a score
# on the test set, only on heldout.
TRAIN = ("sympy/sympy", "sphinx-doc/sphinx")
Progress = Callable[[int, int, str], None]


def load(
    dataset: str = "full",
    split: str = "test",
    limit: int | None = None,
    instances: Sequence[str] | None = None,
    build: Literal["docker", "sdist"] = "docker",
    path: str | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> list[TaskInstance]:
    """The tasks of ``dataset``: verified, lite, full, or a file, folder or hub id of such rows.

    ``path`` is where its rows lie, if not on the hub; ``instances`` are ids. ``split``: test (or
    all), its parts train and heldout, which share no repository, or dev. With build="sdist" come
    the rows that are known to behave there (``validated.jsonl``), or those of ``instances``, which
    are then tried whether known or not. ``workers`` and ``progress`` concern that build.
    Raises SetupError.
    """
    if build not in ("docker", "sdist"):
        raise SetupError(f"build={build!r}: it is docker (the published images) or sdist (PyPI)")
    if split not in SPLITS:
        raise SetupError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    source = f"swebench_{dataset}" if dataset in HUB else "swebench"
    rows = read_rows(path or HUB.get(dataset, dataset), "dev" if split == "dev" else "test")
    chosen = (row.changed({"split": _part(row)}) for row in _chosen(unique(rows), instances))
    wanted = (row for row in chosen if split not in ("train", "heldout") or split == row["split"])
    if build == "docker":
        return [from_row(complete(row), source) for row in islice(wanted, limit)]
    from swe_gym_env.tasks.swebench.batch import known, rebuilt

    asked = instances is not None
    some = list(islice(wanted if asked else known(wanted), limit))
    for row in some:  # before minutes go into rebuilding them
        from_row(complete(row), source)
    return [from_row(row, f"{source}[sdist]") for row in rebuilt(some, asked, workers, progress)]


def _part(row: Row) -> str:
    return "train" if row.text("repo") in TRAIN else "heldout"


def _chosen(rows: Iterable[Row], instances: Sequence[str] | None) -> Iterable[Row]:
    if instances is None:
        return rows
    here = {row["instance_id"]: row for row in rows}
    if unknown := [str(one) for one in instances if one not in here]:
        raise SetupError(f"no instance {', '.join(unknown)} among the {len(here)} rows")
    return [here[one] for one in instances]
