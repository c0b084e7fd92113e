"""Tasks made by putting one bug, or a few, into a real package from PyPI.

``load`` returns TaskInstances and builds missing ones; ``build`` returns the rows. The modules, in
the order in which a bug passes through them: ``catalog`` (packages), ``fetch`` (source and
environment), ``operators``, ``walk`` and ``plan`` (which bugs, in which order), ``suite``,
``baseline`` and ``validate`` (whether a bug makes a task), ``hide``, ``statement``, ``instance``
and ``record`` (the task), ``package_builder`` (all verdicts of one package), ``splits``, ``choose``
and ``build`` (the set).

An injected bug is one edit of the source text of a function. It makes a task if tests of the
package fail with it; these tests are hidden from the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.pypi.build import FULL, LARGEST, Progress, build
from swe_gym_env.tasks.pypi.splits import check_known
from swe_gym_env.tasks.pypi.statement import WINDOW, problem
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.types import TaskInstance

__all__ = ["FULL", "build", "load"]

BUILT = True


def load(
    split: str = "all",
    help: Literal["located", "symptom"] = "located",
    limit: int | None = None,
    packages: Sequence[str] | Literal["all"] | None = None,
    max_function_lines: int | None = None,
    operators: Sequence[str] = (),
    bugs: Sequence[int] = (1,),
    window: int = WINDOW,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> list[TaskInstance]:
    """Load tasks, and build those that do not exist yet.

    Args:
        split: A split, several separated by commas, or ``all``.
        limit: Largest number of tasks of each split. Without it and ``counts``, each split has its
            size in the full set.
        counts: The number for each split by its name.
        help: Whether the problem statement says where the fault is.
        window: The largest number of lines to which it points then.
        bugs: How many bugs a task has, in turn: with (1, 1, 2) every third task has two.

    Raises:
        SetupError: An option has an impossible value, or the tasks cannot be built.
    """
    names = check_known(split)
    if help not in ("located", "symptom"):
        raise SetupError(f"unknown help {help!r}: there are located and symptom")
    full = counts or (LARGEST if packages == "all" else FULL)
    sizes = {name: full.get(name, 0) if limit is None else limit for name in names}
    if window < 1:
        raise SetupError(f"window={window}: a report points at one line at least")
    rows = build(
        packages,
        counts=sizes,
        max_function_lines=max_function_lines,
        operators=operators,
        bugs=bugs,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    return [from_row(_with_help(row, help, window), "pypi") for row in rows]


def _with_help(row: Mapping[str, Any], help: str, window: int) -> dict[str, Any]:
    metadata = row["metadata"]
    text = problem(metadata, help == "located", window)
    metadata = _public(metadata) | {"help": help, "version": row["version"]}
    if "parts" in metadata:
        metadata["parts"] = [_public(part) for part in metadata["parts"]]
    return {**row, "problem_statement": text, "metadata": metadata}


def _public(metadata: Mapping[str, Any]) -> dict[str, Any]:
    # `shape` is the correct function: it must not even reach the records of a training
    return {key: value for key, value in metadata.items() if key not in ("symptom", "shape")}
