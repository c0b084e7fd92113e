"""SWE-bench: Verified, Lite and the full test set, in Docker images or rebuilt from PyPI.

``build="docker"`` uses the published images. ``build="sdist"`` makes each repository again from the
first source distribution that contains the fix of the row (``rebuild.py``), in the local store.
That needs neither Docker nor a registry, but the tree is not the same, so scores on it have another
name.
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
# For experiments without other training tasks. A model that was trained on these must not report a
# score on the test set, only on heldout.
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
    """Load tasks of SWE-bench.

    Args:
        dataset: ``verified``, ``lite``, ``full``, or a file, folder or id on the hub.
        path: Where the rows are, if not on the hub.
        build: ``docker`` or ``sdist``, see above. ``sdist`` loads only rows that are known to work
            (``validated.jsonl``), unless ``instances`` names them.
        split: ``test`` or ``all``; ``train`` and ``heldout``, parts of it that share no repository;
            or ``dev``.
        instances: Ids of the tasks.
        workers: Number of threads of ``sdist``.
        progress: Called by ``sdist`` with (done, total, message).

    Raises:
        SetupError: The rows cannot be read, one is wrong, or one cannot be rebuilt.
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
    for row in some:  # all are checked before minutes are spent on rebuilding
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
