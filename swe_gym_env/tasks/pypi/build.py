"""Build what is missing of a wanted set of tasks, in parallel, and remember every verdict.

The wanted set is a pure function of the candidates' order and of the suites' verdicts: packages
take turns, each giving its next valid candidate, until a split is full. Verdicts that are not
known yet count as valid; those candidates are tried; then the set is drawn again. So the result
does not depend on who finished first, a smaller set is a prefix of a larger one, and a killed
build goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import queue
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.images import home
from swe_gym_env.tasks.pypi import fetch, instance
from swe_gym_env.tasks.pypi.catalog import PACKAGES, Package
from swe_gym_env.tasks.pypi.plan import Candidate, candidates
from swe_gym_env.tasks.pypi.splits import SPLITS, near_duplicates
from swe_gym_env.tasks.pypi.validate import Baseline, Validator, baseline

log = logging.getLogger(__name__)

RECIPE = 4  # raise it when operators, statements or rows change: it is part of every cache key
PER_FUNCTION = 5
FULL = {"train": 400, "val": 40, "heldout": 120, "unseen": 80}
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Wanted:
    """Which tasks: how many of each split, and from which functions."""

    counts: Mapping[str, int] = field(default_factory=lambda: dict(FULL))
    max_function_lines: int | None = None
    operators: tuple[str, ...] = ()

    def allows(self, candidate: Candidate) -> bool:
        short = self.max_function_lines is None or (
            candidate.function.lines <= self.max_function_lines
        )
        return short and (not self.operators or candidate.edit.operator in self.operators)


class Workshop:
    """One package on disk: its tree, environment, baseline, candidates and verdicts so far."""

    def __init__(self, package: Package, seed: int = 0) -> None:
        known, archive = fetch.sdist(package)
        key = json.dumps([RECIPE, seed, dataclasses.asdict(known)], sort_keys=True)
        self.key = f"{known.name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        self.folder = home() / "tasks" / "pypi" / self.key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tree = self.folder / "tree"
        if not self.tree.exists():
            fetch.unpack(archive, self.tree)
        self.package = fetch.guessed(known, self.tree, archive)
        self.env = fetch.environment(self.package)
        saved = self.folder / "baseline.json"
        if not saved.exists():
            python = self.env / "bin" / "python"
            baseline(self.package, python, self.tree, self.folder / "scratch").save(saved)
        self.base = Baseline.load(saved)
        self.candidates = candidates(self.package, self.tree, self.base.covered, seed)
        self._idle: queue.SimpleQueue[Validator] = queue.SimpleQueue()
        self._ledger, self._lock, self._made = self.folder / "ledger.jsonl", Lock(), 0
        self.verdicts = self._read_ledger()

    def _read_ledger(self) -> dict[str, tuple[str, dict[str, Any] | None]]:
        found: dict[str, tuple[str, dict[str, Any] | None]] = {}
        if self._ledger.exists():
            for line in self._ledger.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that a kill cut short
                if entry["row"] is None or instance.exists(entry["row"]):
                    found[entry["candidate"]] = (entry["verdict"], entry["row"])
        return found

    def try_out(self, candidate: Candidate) -> str:
        """Judge one candidate and write the verdict down. Called by several threads."""
        try:
            validator = self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                self._made += 1
                scratch = self.folder / f"work-{self._made}"
            validator = Validator(self.package, self.env, self.tree, scratch, self.base)
        verdict, row = validator.try_out(candidate)
        self._idle.put(validator)
        entry = {"candidate": candidate.id, "verdict": verdict, "row": row}
        with self._lock, self._ledger.open("a") as out:
            out.write("\n" * (out.tell() > 0 and not self._ends_clean()))
            out.write(instance.dumps({**entry, "operator": candidate.edit.operator}) + "\n")
            self.verdicts[candidate.id] = (verdict, row)
        return verdict

    def _ends_clean(self) -> bool:
        with self._ledger.open("rb") as handle:
            handle.seek(-1, 2)
            return handle.read(1) == b"\n"

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    def publish(self) -> Path:
        """The valid rows in candidate order, as one file."""
        path = self.folder.with_suffix(".jsonl")
        rows = [self.verdicts.get(c.id, ("", None))[1] for c in self.candidates]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(instance.dumps(row) + "\n" for row in rows if row is not None))
        aside.replace(path)
        return path


def draw_set(shops: Sequence[Workshop], wanted: Wanted) -> list[tuple[Workshop, Candidate]]:
    """The wanted tasks, candidates of unknown verdict among them."""
    dropped = near_duplicates(
        (c.split, c.function.shape) for shop in shops for c in shop.candidates
    )
    chosen: list[tuple[Workshop, Candidate]] = []
    for split in SPLITS:
        lines = [_line(shop, split, wanted, dropped) for shop in shops]
        left = wanted.counts.get(split, 0)
        while left > 0 and any(lines):
            for shop, line in zip(shops, lines, strict=True):
                if line and left > 0:
                    chosen.append((shop, line.pop(0)))
                    left -= 1
    return chosen


def _line(
    shop: Workshop, split: str, wanted: Wanted, dropped: set[tuple[str, str]]
) -> list[Candidate]:
    """A package's candidates for a split that are, or may be, valid."""
    taken: Counter[tuple[str, str, int]] = Counter()
    line = []
    for candidate in shop.candidates:
        function = candidate.function
        place = (function.file, function.name, function.line_start)
        if candidate.split != split or (split, function.shape) in dropped:
            continue
        valid = shop.verdicts.get(candidate.id, ("valid", None))[0] == "valid"
        if valid and wanted.allows(candidate) and taken[place] < PER_FUNCTION:
            taken[place] += 1
            line.append(candidate)
    return line


def find(name: str, requires: Sequence[str] = ()) -> Package:
    """A package by name: from the catalog, or any other one with defaults."""
    bare, _, version = name.partition("==")
    known = PACKAGES.get(bare)
    if known is not None and version in ("", known.version) and not requires:
        return known
    return Package(bare, version, requires=tuple(requires))


def workshops(
    packages: Sequence[Package], seed: int, workers: int, progress: Progress | None
) -> list[Workshop]:
    """Fetch and measure the packages, several at a time. One of the catalog that does not work
    here (another Python, say) is left out with a warning, unless nothing else is left."""
    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(Workshop, package, seed): package for package in packages}
        for done, job in enumerate(as_completed(jobs), 1):
            if progress is not None:
                progress(done, len(jobs), f"package {jobs[job].name}")
    ready = []
    for job, package in jobs.items():
        fault = job.exception()
        if fault is None:
            ready.append(job.result())
        elif isinstance(fault, SetupError) and package.default and len(jobs) > 1:
            log.warning("left out: %s", fault)
        else:
            raise fault
    if not ready:
        raise SetupError("no package could be prepared; the warnings above say why")
    return ready


def build(
    packages: Sequence[Package | str] | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    max_function_lines: int | None = None,
    operators: Sequence[str] = (),
    workers: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The rows of the wanted tasks, best order first; builds what is missing.

    ``counts`` says how many of each split (default: the full set). Rows are swebench 5 rows with
    ``metadata``; their images lie in the local store.
    """
    if unknown := set(counts or ()) - set(SPLITS):
        raise SetupError(f"unknown split {min(unknown)!r}: there are {', '.join(SPLITS)}")
    wanted = Wanted(dict(FULL if counts is None else counts), max_function_lines, tuple(operators))
    names = packages if packages is not None else list(PACKAGES.values())
    chosen = [find(name) if isinstance(name, str) else name for name in names]
    with fetch.locked(home() / "tasks" / "pypi" / ".lock"):
        shops = workshops(chosen, seed, workers, progress)
        try:
            return _fill(shops, wanted, workers, progress)
        finally:
            for shop in shops:
                shop.close()


def _fill(
    shops: list[Workshop], wanted: Wanted, workers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    while True:
        drawn = draw_set(shops, wanted)
        unknown = [(shop, c) for shop, c in drawn if c.id not in shop.verdicts]
        done = len(drawn) - len(unknown)
        if progress is not None:
            progress(done, len(drawn), "tasks")
        if not unknown:
            break
        with ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(shop.try_out, c): shop for shop, c in unknown}
            try:
                for job in as_completed(jobs):
                    done += job.result() == "valid"
                    if progress is not None:
                        progress(done, len(drawn), f"bugs in {jobs[job].package.name}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for shop in shops:
            shop.publish()
    rows = [shop.verdicts[candidate.id][1] for shop, candidate in drawn]
    return [row for row in rows if row is not None]
