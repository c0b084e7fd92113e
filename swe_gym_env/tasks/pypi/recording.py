"""Write the list of this Python (listed.py): try all bugs of the usual sets, note what was seen."""

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

# What `make demo` draws (conf/tasks/pypi.yaml, evaluation.tasks), then the default
SETS = (Wanted({"train": 120, "heldout": 56}, operators=ONE_TOKEN), Wanted(FULL))


def record(
    path: Path,
    packages: Sequence[Package] | None = None,
    sets: Sequence[Wanted] = SETS,
    workers: int = 2,
    progress: Progress | None = None,
) -> int:
    """Write to ``path`` what is found when ``sets`` are drawn; how many bugs are in it. Nothing is
    taken from a list. Bugs that this store has tried already are not tried again."""
    chosen = [find(name) for name in CORE] if packages is None else packages
    text: list[str] = []
    with opened(chosen, 0, workers, progress, anew=True) as shops:
        for wanted in sets:
            fill(shops, wanted, workers, progress)
        for shop in shops:
            text += listed.lines(shop.package, shop.base, _tried(shop))
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(line + "\n" for line in text))
    aside.replace(path)
    return len(text) - len(shops)


def _tried(shop: PackageBuilder) -> Iterator[tuple[Candidate, Finding]]:
    """In the order in which they are tried."""
    found: Mapping[str, Finding] = {
        entry["candidate"]: Finding.from_json(entry["finding"])
        for entry in shop.entries()
        if "finding" in entry
    }
    if lost := sorted(set(shop.verdicts) - set(found)):
        raise SetupError(
            f"{shop.folder} has verdicts of an older version of this project, {lost[0]} for one: "
            "record with SWE_GYM_HOME pointing at an empty folder"
        )
    for candidate in shop.candidates:
        if candidate.id in found:
            yield candidate, found[candidate.id]
