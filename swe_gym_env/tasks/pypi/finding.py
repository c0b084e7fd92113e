"""What trying one bug showed: with the sources, all that is needed to make its task again.

Findings go into the ledger of a store and into the lists that come with the project (listed.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """``verdict`` is ``valid`` or says why the bug makes no task; then the rest is empty.

    ``fails``: the tests that fail with the bug, sorted. ``hidden``: for each test file the first
    lines of the functions that are removed from it. ``symptoms``: what goes wrong, for each part of
    the bug. ``distance``: calls from the nearest failing test to the bug (record.py). ``commit``:
    the commit that the agent finds; empty while it has not been made.
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
