"""Build the missing tasks of a set in parallel, and store every verdict.

The set is a pure function of the order of the candidates and of the verdicts: packages take turns,
and each contributes its next valid candidate, until a split is full. A verdict that is not known
yet counts as valid; these candidates are tried, and the set is drawn again, until all verdicts are
known. Therefore the result does not depend on the order in which jobs finish, a smaller set is a
prefix of a larger one, and a killed build continues where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi import fetch, listed
from swe_gym_env.tasks.pypi.catalog import CORE, PACKAGES, Package
from swe_gym_env.tasks.pypi.choose import Wanted, draw_set
from swe_gym_env.tasks.pypi.package_builder import PackageBuilder
from swe_gym_env.tasks.pypi.plan import Candidate, Group
from swe_gym_env.tasks.pypi.splits import SPLITS

log = logging.getLogger(__name__)
K = TypeVar("K")
T = TypeVar("T")

FULL = {"train": 400, "val": 40, "heldout": 120, "unseen": 80}
LARGEST = {"train": 560, "val": 90, "heldout": 200, "unseen": 200}  # with all packages
BUGS = (1, 2, 3)  # in one task; the effects of more could not be separated by fixing one at a time
Progress = Callable[[int, int, str], None]  # called with (done, total, message)


def find(name: str, requires: Sequence[str] = ()) -> Package:
    """A package by name, ``NAME`` or ``NAME==VERSION``; from the catalog, or with defaults.

    Args:
        name: Name on PyPI, with a version if it should not be the latest.
        requires: Requirements of its tests beside pytest.
    """
    bare, _, version = name.partition("==")
    known = PACKAGES.get(bare)
    if known is not None and version in ("", known.version) and not requires:
        return known
    return Package(bare, version, requires=tuple(requires))


def package_builders(
    packages: Sequence[Package], seed: int, workers: int, progress: Progress | None, anew: bool
) -> list[PackageBuilder]:
    """Fetch the packages, and run the suites of those that the list does not know."""
    return list(
        _each(
            {package: package for package in packages},
            lambda package: PackageBuilder(package, seed, anew),
            workers,
            lambda done, name: progress and progress(done, len(packages), f"package {name}"),
        ).values()
    )


def _each(
    packages: Mapping[K, Package],
    work: Callable[[K], T],
    workers: int,
    done: Callable[[int, str], object],
) -> dict[K, T]:
    """Call ``work`` for each package in parallel.

    A package of the catalog that does not work here, for example because of the version of Python,
    is left out with a warning.

    Args:
        packages: What ``work`` gets -> the package that it belongs to.
        work: The job.
        workers: Number of threads.
        done: Called with the number of finished jobs and the name of a package.

    Raises:
        SetupError: No package is left, or one failed that the user has named.
    """
    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(work, key): key for key in packages}
        try:
            for number, job in enumerate(as_completed(jobs), 1):
                done(number, packages[jobs[job]].name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    ready = {}
    for job, key in jobs.items():
        fault, package = job.exception(), packages[key]
        if fault is None:
            ready[key] = job.result()
        elif isinstance(fault, SetupError) and package.default and len(jobs) > 1:
            if isinstance(fault, fetch.PipError) and listed.find(package) is not None:
                raise fault  # the list shows that it works with this Python: pip failed otherwise
            log.warning("left out: %s", fault)
        else:
            raise fault
    if not ready:
        raise SetupError("no package could be prepared; the warnings above say why")
    return ready


def build(
    packages: Sequence[Package | str] | Literal["all"] | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    max_function_lines: int | None = None,
    operators: Sequence[str] = (),
    bugs: Sequence[int] = (1,),
    workers: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
    anew: bool = False,
) -> list[dict[str, Any]]:
    """Build the missing tasks of a set.

    Args:
        packages: Packages or their names; None for the quick ones of the catalog, ``all`` for all.
        counts: Number of tasks of each split; by default those of the full set.
        max_function_lines: Longest function that may get a bug.
        operators: Names of the operators that make bugs; all if empty.
        bugs: How many bugs a task has, in turn.
        workers: Number of threads.
        seed: Seed of the order of candidates.
        progress: Called with (done, total, message).
        anew: Whether every bug is tried here, also those that the project's list knows.

    Returns:
        Rows of swebench 5 with ``metadata``, in the order in which they were drawn. Their images
        are in the local store.

    Raises:
        SetupError: An argument has an impossible value, or no package can be prepared.
    """
    if unknown := set(counts or ()) - set(SPLITS):
        raise SetupError(f"unknown split {min(unknown)!r}: there are {', '.join(SPLITS)}")
    if not bugs or not set(bugs) <= set(BUGS):
        raise SetupError(f"bugs={list(bugs)}: a list of numbers from {BUGS[0]} to {BUGS[-1]}")
    full = LARGEST if packages == "all" else FULL
    wanted = Wanted(
        dict(full if counts is None else counts), max_function_lines, tuple(operators), tuple(bugs)
    )
    names = CORE if packages is None else tuple(PACKAGES) if packages == "all" else packages
    chosen = [find(name) if isinstance(name, str) else name for name in names]
    with opened(chosen, seed, workers, progress, anew) as builders:
        return fill(builders, wanted, workers, progress)


@contextmanager
def opened(
    packages: Sequence[Package], seed: int, workers: int, progress: Progress | None, anew: bool
) -> Iterator[list[PackageBuilder]]:
    """The builders of the packages. Only one process at a time may use them."""
    with fetch.locked(home() / "tasks" / "pypi" / ".lock"):
        if not anew and not listed.path().is_file():
            log.info("no list for this Python (%s): bugs are tried anew", listed.path().name)
        builders = package_builders(packages, seed, workers, progress, anew)
        try:
            yield builders
        finally:
            for builder in builders:
                builder.close()


def fill(
    builders: list[PackageBuilder], wanted: Wanted, workers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """Try candidates until the set is complete, and return its rows.

    A package is removed from ``builders`` if its suite turns out not to pass here.
    """
    while True:
        drawn = draw_set(builders, wanted)
        unknown = {(builder, bug) for builder, bug in drawn if bug.id not in builder.verdicts}
        done = len(drawn) - len(unknown)
        if progress is not None:
            progress(done, len(drawn), "tasks")
        if not unknown:
            break
        tries = dict.fromkeys(
            (builder, part) for builder, bug in drawn for part in builder.to_try(bug)
        )
        if _prepare(builders, tries, workers, progress, (done, len(drawn))):
            continue
        with ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(builder.try_out, bug): (builder, bug) for builder, bug in tries}
            try:
                for job in as_completed(jobs):
                    done += job.result() == "valid" and jobs[job] in unknown
                    if progress is not None:
                        progress(done, len(drawn), f"bugs in {jobs[job][0].package.name}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for builder in builders:
            builder.publish()
    rows = [builder.verdicts[bug.id][1] for builder, bug in drawn]
    return [row for row in rows if row is not None]


def _prepare(
    builders: list[PackageBuilder],
    tries: Collection[tuple[PackageBuilder, Candidate | Group]],
    workers: int,
    progress: Progress | None,
    count: tuple[int, int],
) -> bool:
    """Prepare the builders of the bugs that are tried next.

    Returns:
        Whether the set must be drawn again, because a list does not fit or a package was removed.
    """
    bugs = {builder: [bug for other, bug in tries if other is builder] for builder in builders}
    packages = {builder: builder.package for builder in builders if bugs[builder]}
    changed = _each(
        packages,
        lambda builder: builder.prepare(bugs[builder]),
        workers,
        lambda _, name: progress and progress(*count, f"suite of {name}"),
    )
    gone = [builder for builder in packages if builder not in changed]
    for builder in gone:
        builder.close()
        builders.remove(builder)
    return bool(gone) or any(changed.values())
