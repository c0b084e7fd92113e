"""Turns and tokens of a run that has been, in place of the assumptions: ``plan.run=FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.runs.folders import RunFolder
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder


@dataclass(frozen=True)
class SeenTurn:
    """Whether the teacher took it, how many tokens were sampled (0 where no model of ours did), and
    whether there was a call in it that could be run."""

    led: bool
    tokens: int
    acts: bool


@dataclass(frozen=True)
class Seen:
    """What one phase left: the turns of each episode, trees and trained tokens of a training (0
    where there was none)."""

    turns: tuple[tuple[SeenTurn, ...], ...]
    trees: int = 0
    trained: int = 0

    @classmethod
    def of(cls, folder: Path) -> Seen:
        """From a round, or an evaluation."""
        round = RoundFolder(folder)
        turns = tuple(
            tuple(
                SeenTurn(turn.actor == "teacher", len(turn.token_ids), turn.action is not None)
                for turn in episode.turns
            )
            for episode in round.episodes()
            if episode.turns
        )
        metrics = round.metrics
        return cls(turns, metrics.get("trees", 0), metrics.get("trained_tokens", 0))


@dataclass(frozen=True)
class Facts:
    """By the names of the phases."""

    seen: dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str | None) -> Facts:
        """SetupError if ``run`` is no run folder."""
        if not run:
            return cls()
        folder = RunFolder(Path(run))
        if not (folder.path / "config.yaml").is_file():
            raise SetupError(f"plan.run={run} is no run folder: it has no config.yaml")
        found = {}
        for path in sorted((folder.path / "rounds").glob("*/metrics.json")):
            name = path.parent.name
            found[f"collect {name}"] = found[f"train {name}"] = Seen.of(path.parent)
        for path in sorted((folder.path / "evaluations").glob("*/metrics.json")):
            found[f"evaluate {path.parent.name}"] = Seen.of(path.parent)
        return cls(found)

    def trees(self, phase: str, trees: Sequence[int], share: float, epochs: int) -> list[int]:
        """Their sizes: ``share`` times the given, or of the same sum and number as they were."""
        seen = self.seen.get(phase)
        if seen and seen.trees:
            return [round(seen.trained / epochs / seen.trees)] * seen.trees
        if not trees:
            return []
        count = max(1, round(share * len(trees)))
        return [trees[place % len(trees)] for place in range(count)]
