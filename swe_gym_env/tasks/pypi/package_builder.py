"""The builder of one package: it tries the package's bugs and stores every verdict.

The folder of a builder has the source ``tree``, ``baseline.json`` (the suite of the original
package, if it was run here), ``ledger.jsonl`` (one line for each tried bug; the last one of a bug
counts) and ``list.json`` (whether the project's list was found to fit). All writes are atomic or
append one line, so a killed build continues.
"""

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
    """One package with its tree, environment, baseline, candidates and verdicts so far.

    If the project's list knows the package, baseline and findings are taken from it, until a bug is
    needed that it does not contain.

    Args:
        package: The package.
        seed: Seed of the order of candidates.
        anew: Whether the list is ignored, so that every bug is tried here.

    Attributes:
        folder: Where everything about the package is stored.
        tree: The original source tree.
        env: The environment of its tests.
        listed: The list that is in use; None if there is none or it does not fit.
        base: The baseline.
        candidates: Every bug worth trying, in the order in which they are tried.
        verdicts: Id of a bug -> (verdict, row); the row is None if the bug is not valid.
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
        """Whether the whole suite was run on this machine."""
        return (self.folder / "baseline.json").exists()

    def _fitting(self) -> listed.Listed | None:
        """The list, unless it was found not to fit on this machine."""
        found = listed.find(self.package)
        if found is None or self._noted(found.digest).get("misfit"):
            return None
        if self.measured and found.contradicts(Baseline.load(self.folder / "baseline.json")):
            return None
        return found

    def _noted(self, digest: str) -> dict[str, Any]:
        """The note about the list with this digest; empty if there is none."""
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
        """The valid lines of the ledger; lines from a list are valid while that list is in use."""
        digest = self.listed.digest if self.listed is not None else ""
        found = []
        if self._ledger.exists():
            for line in self._ledger.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # a kill has cut this line
                if entry.get("list", digest) == digest:
                    found.append(entry)
        return found

    def to_try(self, bug: Candidate | Group) -> list[Candidate | Group]:
        """What must be tried before ``bug`` has a verdict: the parts of a group, then the group."""
        parts: list[Candidate | Group] = [p for p in bug.parts if p.id not in self.verdicts]
        return parts or ([] if bug.id in self.verdicts else [bug])

    def prepare(self, bugs: Collection[Candidate | Group]) -> bool:
        """Prepare to try ``bugs``.

        If some of them are in the list, a sample of the list is checked first. If some are not, the
        suite of the original package is run first.

        Returns:
            Whether the list was dropped because it does not fit, so that the set must be drawn
            again.

        Raises:
            SetupError: The suite does not pass on this machine.
        """
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
        """Judge one bug and store the verdict. Several threads may call it, after ``prepare``.

        Returns:
            The verdict. It is empty, and nothing is stored, if the list is wrong about this bug.
        """
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
        """Write all valid rows to one file, in the order of candidates, groups of bugs last."""
        path = self.folder.with_suffix(".jsonl")
        names = [c.id for c in self.candidates]
        names += sorted(set(self.verdicts) - set(names))
        rows = [self.verdicts.get(name, ("", None))[1] for name in names]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(instance.dumps(row) + "\n" for row in rows if row is not None))
        aside.replace(path)
        return path
