"""Turns and tokens of a run that has been, in place of the assumptions: ``plan.run=FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.runs import layout
from experiments.runs.reader import EpisodeSet, read_run
from swe_gym_env.errors import SetupError


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
    def of(cls, played: EpisodeSet) -> Seen:
        """From a round, or an evaluation."""
        turns = tuple(
            tuple(
                SeenTurn(turn.actor == "teacher", len(turn.token_ids), turn.action is not None)
                for turn in episode.turns
            )
            for episode in played.episodes
            if episode.turns
        )
        metrics = played.metrics
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
        if not layout.is_configured(Path(run)):
            raise SetupError(f"plan.run={run} is no run folder: it has no config.yaml")
        found, stored = {}, read_run(Path(run))
        for played in (one for one in stored.rounds if one.metrics):
            found[f"collect {played.key}"] = found[f"train {played.key}"] = Seen.of(played)
        for played in (one for one in stored.evaluations if one.metrics):
            found[f"evaluate {played.key}"] = Seen.of(played)
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
