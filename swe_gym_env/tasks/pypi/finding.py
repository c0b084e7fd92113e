"""The result of trying one bug: together with the sources, all that is needed to make its task.

Findings are stored in the ledger of a package (``package_builder.py``) and in the lists that come
with the project (``listed.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """The result of trying one bug. The names of the fields are keys of stored files.

    Attributes:
        verdict: ``valid``, or why the bug makes no task; then all other fields are empty.
        fails: Ids of the tests that fail with the bug, sorted.
        hidden: Test file -> first lines of the functions that are removed from it.
        symptoms: For each part of the bug, a text about what goes wrong.
        distance: Calls from the nearest failing test to the bug (``record.distance``).
        commit: The base commit of the task; empty until it was made.
    """

    verdict: str
    fails: tuple[str, ...] = ()
    hidden: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    symptoms: tuple[str, ...] = ()
    distance: int | None = None
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) if self.verdict == "valid" else {"verdict": self.verdict}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        if data["verdict"] != "valid":
            return cls(data["verdict"])
        hidden: Mapping[str, Sequence[int]] = data["hidden"]
        return cls(
            "valid",
            tuple(data["fails"]),
            {file: tuple(lines) for file, lines in hidden.items()},
            tuple(data["symptoms"]),
            data["distance"],
            data["commit"],
        )
