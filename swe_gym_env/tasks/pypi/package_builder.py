"""One package at work: where its bugs are tried, and where every verdict is remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import queue
from collections.abc import Collection
from pathlib import Path
from threading import Lock
from typing import Any

from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi import fetch, instance, listed, record
from swe_gym_env.tasks.pypi.baseline import Baseline, baseline
from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.finding import Finding
from swe_gym_env.tasks.pypi.plan import Candidate, Group, candidates
from swe_gym_env.tasks.pypi.validate import Validator

log = logging.getLogger(__name__)


class PackageBuilder:
    """One package on disk: its tree, environment, baseline, candidates and verdicts so far.

    Where the project's list knows the package (``listed``), the baseline and the findings are
    taken from there until something is asked that it does not know. ``anew``: do not use it.
    """

    def __init__(self, package: Package, seed: int = 0, anew: bool = False) -> None:
        known, archive = fetch.sdist(package)
        key = json.dumps([listed.RECIPE, seed, dataclasses.asdict(known)], sort_keys=True)
        self.key = f"{known.name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        self.folder = home() / "tasks" / "pypi" / self.key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tree = self.folder / "tree"
        if not self.tree.exists():
            fetch.unpack(archive, self.tree)
        self.package, self.seed = fetch.guessed(known, self.tree, archive), seed
        self.env = fetch.environment(self.package)
        self._idle: queue.SimpleQueue[Validator] = queue.SimpleQueue()
        self._ledger, self._lock, self._made = self.folder / "ledger.jsonl", Lock(), 0
        self._note, self._refuted = self.folder / "list.json", set[str]()
        self.listed = None if anew else self._fitting()
        self._begin()

    @property
    def _python(self) -> Path:
        return self.env / "bin" / "python"

    @property
    def measured(self) -> bool:
        """Has the suite been run here in full?"""
        return (self.folder / "baseline.json").exists()

    def _fitting(self) -> listed.Listed | None:
        """The list, unless it has been found wrong here."""
        found = listed.find(self.package)
        if found is None or self._noted(found.digest).get("misfit"):
            return None
        if self.measured and found.contradicts(Baseline.load(self.folder / "baseline.json")):
            return None
        return found

    def _noted(self, digest: str) -> dict[str, Any]:
        """What was seen here of the list with this digest."""
        note = json.loads(self._note.read_text()) if self._note.exists() else {}
        return note if note.get("digest") == digest else {}

    def _begin(self) -> None:
        if self.listed is None and not self.measured:
            self._measure()
        saved = self.folder / "baseline.json"
        known = self.listed.base if self.listed is not None else None
        self.base = Baseline.load(saved) if known is None or self.measured else known
        self.candidates = candidates(self.package, self.tree, self.base.covered, self.seed)
        self.verdicts = self._read_ledger()

    def _measure(self) -> None:
        found = baseline(self.package, self._python, self.tree, self.folder / "scratch")
        found.save(self.folder / "baseline.json")

    def _read_ledger(self) -> dict[str, tuple[str, dict[str, Any] | None]]:
        found: dict[str, tuple[str, dict[str, Any] | None]] = {}
        for entry in self.entries():
            if entry["row"] is None or instance.exists(entry["row"]):
                found[entry["candidate"]] = (entry["verdict"], entry["row"])
        return found

    def entries(self) -> list[dict[str, Any]]:
        """The ledger's lines that hold: those from a list only while that list is in use."""
        digest = self.listed.digest if self.listed is not None else ""
        found = []
        if self._ledger.exists():
            for line in self._ledger.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that a kill cut short
                if entry.get("list", digest) == digest:
                    found.append(entry)
        return found

    def to_try(self, bug: Candidate | Group) -> list[Candidate | Group]:
        """What is to be judged now: a group comes after its parts."""
        parts: list[Candidate | Group] = [p for p in bug.parts if p.id not in self.verdicts]
        return parts or ([] if bug.id in self.verdicts else [bug])

    def prepare(self, bugs: Collection[Candidate | Group]) -> bool:
        """Before ``bugs`` are tried: check a sample of the list if some are in it, and run the
        suite as it is if others are not. True if that changed what is known, so that the set has to
        be drawn again. Raises SetupError if the suite does not pass here."""
        if self.listed is None:
            return False
        inside = [bug for bug in bugs if self._finding(bug) is not None]
        why = ""
        if inside and not self._noted(self.listed.digest):
            work = self.folder / "sample"
            args = (self.listed, self.package, self._python, self.tree, work, self.candidates)
            why = listed.misfit(*args)
            self._write_note(why)
        if not why and len(inside) < len(bugs) and not self.measured:
            self._measure()
            self.close()
            self.base = Baseline.load(self.folder / "baseline.json")
            why = self.listed.contradicts(self.base)
        if why:
            name = f"{self.package.name} {self.package.version}"
            log.warning("%s: the list of bugs does not fit, they are found anew: %s", name, why)
            self._write_note(why)
            self.close()
            self.listed = None
            self._begin()
        return bool(why)

    def _write_note(self, why: str) -> None:
        assert self.listed is not None
        aside = self._note.with_suffix(".tmp")
        aside.write_text(json.dumps({"digest": self.listed.digest, "misfit": why}))
        aside.replace(self._note)

    def _finding(self, bug: Candidate | Group) -> Finding | None:
        known = self.listed.findings if self.listed is not None else {}
        return None if bug.id in self._refuted else known.get(bug.id)

    def try_out(self, bug: Candidate | Group) -> str:
        """Judge one bug and write the verdict down. Called by several threads, after ``prepare``.
        Empty, with nothing written down, if the list turns out to be wrong about this bug."""
        alone = [self._fails(part) for part in bug.parts] if isinstance(bug, Group) else []
        known = self._finding(bug)
        found = known or self._judged(bug, alone)
        row = None
        if found.verdict == "valid":
            row = record.task(bug, found, self.package, self.tree, self.env, self.base)
            if known is not None and known.commit != row["base_commit"]:
                log.warning("%s: the list has another tree for it; tried anew", bug.id)
                self._refuted.add(bug.id)
                return ""
            found = dataclasses.replace(found, commit=row["base_commit"])
        kind = f"{len(alone)} bugs" if alone else bug.operator
        entry = {"candidate": bug.id, "verdict": found.verdict, "row": row, "operator": kind}
        if known is not None and self.listed is not None:
            entry["list"] = self.listed.digest
        else:
            entry["finding"] = found.to_json()
        with self._lock, self._ledger.open("a") as out:
            out.write("\n" * (out.tell() > 0 and not self._ends_clean()))
            out.write(instance.dumps(entry) + "\n")
            self.verdicts[bug.id] = (found.verdict, row)
        return found.verdict

    def _judged(self, bug: Candidate | Group, alone: list[set[str]]) -> Finding:
        try:
            validator = self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                self._made += 1
                scratch = self.folder / f"work-{self._made}"
            validator = Validator(self.package, self._python, self.tree, scratch, self.base)
        found = validator.try_out(bug, alone)
        self._idle.put(validator)
        return found

    def _fails(self, part: Candidate) -> set[str]:
        row = self.verdicts[part.id][1]
        return set(row["FAIL_TO_PASS"]) if row is not None else set()

    def may_be_valid(self, bug: Candidate | Group) -> bool:
        return self.verdicts.get(bug.id, ("valid", None))[0] == "valid"

    def _ends_clean(self) -> bool:
        with self._ledger.open("rb") as handle:
            handle.seek(-1, 2)
            return handle.read(1) == b"\n"

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    def publish(self) -> Path:
        """The valid rows in candidate order, those of several bugs last, as one file."""
        path = self.folder.with_suffix(".jsonl")
        names = [c.id for c in self.candidates]
        names += sorted(set(self.verdicts) - set(names))
        rows = [self.verdicts.get(name, ("", None))[1] for name in names]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(instance.dumps(row) + "\n" for row in rows if row is not None))
        aside.replace(path)
        return path
