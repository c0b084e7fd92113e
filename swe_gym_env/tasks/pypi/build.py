"""Build what is missing of a wanted set of tasks, in parallel, and remember every verdict.

The wanted set is a pure function of the candidates' order and of the suites' verdicts: packages
take turns, each giving its next valid candidate, until a split is full. Verdicts that are not
known yet count as valid; those candidates are tried; then the set is drawn again. So the result
does not depend on who finished first, a smaller set is a prefix of a larger one, and a killed
build goes on where it was.
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
LARGEST = {"train": 560, "val": 90, "heldout": 200, "unseen": 200}  # of all packages
BUGS = (1, 2, 3)  # in one task; more could not be told apart by mending one at a time
Progress = Callable[[int, int, str], None]


def find(name: str, requires: Sequence[str] = ()) -> Package:
    """A package by name: from the catalog, or any other one with defaults."""
    bare, _, version = name.partition("==")
    known = PACKAGES.get(bare)
    if known is not None and version in ("", known.version) and not requires:
        return known
    return Package(bare, version, requires=tuple(requires))


def workshops(
    packages: Sequence[Package], seed: int, workers: int, progress: Progress | None, anew: bool
) -> list[PackageBuilder]:
    """Fetch the packages and, where the list does not know them, measure them."""
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
    """``work`` on each, several at a time. One of the catalog that does not work here (another
    Python, say) is left out with a warning, unless nothing else is left."""
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
                raise fault  # it works with this Python, so pip failed for another reason
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
    """The rows of the wanted tasks, best order first; builds what is missing.

    ``packages``: of the catalog the quick ones (None) or all. ``counts`` says how many of each
    split (default: the full set), ``bugs`` how many bugs they hold, in turn. ``anew``: try every
    bug here, also those that the project's list knows. Rows are swebench 5 rows with ``metadata``;
    their images lie in the local store.
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
    with opened(chosen, seed, workers, progress, anew) as shops:
        return fill(shops, wanted, workers, progress)


@contextmanager
def opened(
    packages: Sequence[Package], seed: int, workers: int, progress: Progress | None, anew: bool
) -> Iterator[list[PackageBuilder]]:
    """The packages' workshops, held by one process at a time."""
    with fetch.locked(home() / "tasks" / "pypi" / ".lock"):
        if not anew and not listed.path().is_file():
            log.info("no list for this Python (%s): bugs are tried anew", listed.path().name)
        shops = workshops(packages, seed, workers, progress, anew)
        try:
            yield shops
        finally:
            for shop in shops:
                shop.close()


def fill(
    shops: list[PackageBuilder], wanted: Wanted, workers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """Try what the wanted set needs until it is whole; its rows. A package whose suite turns out
    not to pass here leaves ``shops``."""
    while True:
        drawn = draw_set(shops, wanted)
        unknown = {(shop, bug) for shop, bug in drawn if bug.id not in shop.verdicts}
        done = len(drawn) - len(unknown)
        if progress is not None:
            progress(done, len(drawn), "tasks")
        if not unknown:
            break
        tries = dict.fromkeys((shop, one) for shop, bug in drawn for one in shop.to_try(bug))
        if _prepare(shops, tries, workers, progress, (done, len(drawn))):
            continue
        with ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(shop.try_out, bug): (shop, bug) for shop, bug in tries}
            try:
                for job in as_completed(jobs):
                    done += job.result() == "valid" and jobs[job] in unknown
                    if progress is not None:
                        progress(done, len(drawn), f"bugs in {jobs[job][0].package.name}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for shop in shops:
            shop.publish()
    rows = [shop.verdicts[bug.id][1] for shop, bug in drawn]
    return [row for row in rows if row is not None]


def _prepare(
    shops: list[PackageBuilder],
    tries: Collection[tuple[PackageBuilder, Candidate | Group]],
    workers: int,
    progress: Progress | None,
    count: tuple[int, int],
) -> bool:
    """Has the set to be drawn again, because a list did not hold or a package had to go?"""
    bugs = {shop: [bug for own, bug in tries if own is shop] for shop in shops}
    packages = {shop: shop.package for shop in shops if bugs[shop]}
    changed = _each(
        packages,
        lambda shop: shop.prepare(bugs[shop]),
        workers,
        lambda _, name: progress and progress(*count, f"suite of {name}"),
    )
    gone = [shop for shop in packages if shop not in changed]
    for shop in gone:
        shop.close()
        shops.remove(shop)
    return bool(gone) or any(changed.values())
