"""Which evaluation resolved which task: all that rates and differences are computed from.

The runs of a comparison fill a disk and end with the machine. Their outcomes fit into one small CSV
file, so that anyone can compute the intervals again and seeds can be added later, elsewhere.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results.tables import Cell, Table
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode

if TYPE_CHECKING:
    from experiments.results.comparison import Group


ROWS = "the digest of the file of tasks"  # a setting of an evaluation
DTYPE = "model.dtype"  # also ignored: in which a model computed; unknown for an endpoint


@dataclass(frozen=True)
class Outcomes:
    """One evaluation as a comparison needs it: from stored episodes, or from an outcomes.csv.

    Attributes:
        path: Its folder, or the file.
        name: Its name unless the user gives another.
        seed: Of its episodes.
        resolved: By task, the share of its samples that resolved it; NaN if infrastructure errors
            ended all of them.
        episodes: None if only the outcomes were kept.
        cost: Of what an endpoint was asked, if it is known.
        finished: Whether all its episodes were played.
        settings: What a comparison should find equal, one value a key; empty if that is unknown.
    """

    path: Path
    name: str
    seed: int
    resolved: dict[str, float]
    episodes: Sequence[Episode] | None = None
    cost: float | None = None
    finished: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_episodes(
        cls, path: Path, name: str, episodes: Sequence[Episode], **more: Any
    ) -> Outcomes:
        seed = episodes[0].seed if episodes else 0
        return cls(path, name, seed, resolved_shares(episodes), episodes, **more)

    @property
    def valid(self) -> list[Episode]:
        return [episode for episode in self.episodes or () if not episode.outcome.mask]

    @property
    def sampled(self) -> bool:
        """Some task has several episodes, as far as that is known."""
        if self.episodes is None:
            return any(0 < share < 1 for share in self.resolved.values())
        return len(self.episodes) > len(self.resolved)

    @property
    def faults(self) -> int:
        """Episodes that an infrastructure error ended; in a file, tasks without any other."""
        if self.episodes is None:
            return sum(map(math.isnan, self.resolved.values()))
        return len(self.episodes) - len(self.valid)


def resolved_shares(episodes: Iterable[Episode]) -> dict[str, float]:
    """By task, the share of its episodes that resolved it; NaN if all were masked."""
    found: dict[str, list[bool]] = {}
    for episode in episodes:
        verdicts = found.setdefault(episode.instance_id, [])
        if not episode.outcome.mask:
            verdicts.append(episode.outcome.resolved)
    return {task: sum(v) / len(v) if v else math.nan for task, v in found.items()}


def wanted(task: str, only: tuple[str, ...]) -> bool:
    """Does the id match one of the patterns? All do where there are none."""
    return not only or any(fnmatchcase(task, pattern) for pattern in only)


def table(groups: Sequence[Group]) -> Table:
    """A row for each task, a column NAME/SEED for each evaluation."""
    members = [(group.name, one) for group in groups for one in group.ordered]
    rows: list[list[Cell]] = []
    for task in sorted(set().union(*(one.resolved for _, one in members))):
        shares = (one.resolved.get(task, "") for _, one in members)  # "": does not have the task
        rows.append([task, *(int(s) if s in (0, 1) else s for s in shares)])
    columns = ["task", *(f"{name}/{one.seed}" for name, one in members)]
    return Table("outcomes", "Resolved", columns, rows)


def read(path: Path, only: tuple[str, ...] = ()) -> dict[str, list[Outcomes]]:
    """The evaluations of each method, in the file's order. Raises SetupError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header[0] != "task":
            raise ValueError(f"its first column is {header[0]!r}, not 'task'")
        rows = [row for row in rows if wanted(row[0], only)]
        found: dict[str, list[Outcomes]] = {}
        for place, column in enumerate(header[1:], 1):
            name, sign, seed = column.rpartition("/")
            if not sign:
                raise ValueError(f"column {column!r} is not NAME/SEED")
            shares = {row[0]: float(row[place]) for row in rows if row[place] != ""}
            found.setdefault(name, []).append(Outcomes(path, name, int(seed), shares))
    except (OSError, ValueError, IndexError) as error:
        raise SetupError(f"{path} is not an outcomes.csv of experiments.compare: {error}") from None
    if not rows:
        raise SetupError(f"{path} has no task whose id matches {' or '.join(only) or '*'}")
    return found
