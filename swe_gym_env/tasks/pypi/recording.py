"""Write the list of this Python (``listed.py``): try all bugs of the usual sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.pypi import listed
from swe_gym_env.tasks.pypi.build import FULL, Progress, fill, find, opened
from swe_gym_env.tasks.pypi.catalog import CORE, Package
from swe_gym_env.tasks.pypi.choose import Wanted
from swe_gym_env.tasks.pypi.finding import Finding
from swe_gym_env.tasks.pypi.operators import ONE_TOKEN
from swe_gym_env.tasks.pypi.package_builder import PackageBuilder
from swe_gym_env.tasks.pypi.plan import Candidate

# The set that `make demo` draws (conf/tasks/pypi.yaml, evaluation.tasks), then the default set
SETS = (Wanted({"train": 120, "heldout": 56}, operators=ONE_TOKEN), Wanted(FULL))


def record(
    path: Path,
    packages: Sequence[Package] | None = None,
    sets: Sequence[Wanted] = SETS,
    workers: int = 2,
    progress: Progress | None = None,
) -> int:
    """Draw ``sets`` without using a list, and write the results of all tried bugs to ``path``.

    Bugs that were tried in this store before are not tried again.

    Args:
        path: The file to write.
        packages: The packages; by default the quick ones of the catalog.
        sets: The sets to draw.
        workers: Number of threads.
        progress: Called with (done, total, message).

    Returns:
        The number of bugs in the file.
    """
    chosen = [find(name) for name in CORE] if packages is None else packages
    text: list[str] = []
    with opened(chosen, 0, workers, progress, anew=True) as builders:
        for wanted in sets:
            fill(builders, wanted, workers, progress)
        for builder in builders:
            text += listed.lines(builder.package, builder.base, _tried(builder))
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(line + "\n" for line in text))
    aside.replace(path)
    return len(text) - len(builders)


def _tried(builder: PackageBuilder) -> Iterator[tuple[Candidate, Finding]]:
    """Bugs and results, in the order in which the bugs are tried."""
    found: Mapping[str, Finding] = {
        entry["candidate"]: Finding.from_json(entry["finding"])
        for entry in builder.entries()
        if "finding" in entry
    }
    if lost := sorted(set(builder.verdicts) - set(found)):
        raise SetupError(
            f"{builder.folder} has verdicts of an older version of this project, {lost[0]} for "
            "one: record with SWE_GYM_HOME pointing at an empty folder"
        )
    for candidate in builder.candidates:
        if candidate.id in found:
            yield candidate, found[candidate.id]
