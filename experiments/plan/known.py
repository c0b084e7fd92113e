"""Turns and tokens of a run that has been, in place of the assumptions: ``plan.run=FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.folders import RunFolder, read_json
from experiments.plan.workload import Agent
from swe_gym_env.errors import SetupError


@dataclass(frozen=True)
class Facts:
    """What metrics.json says of each phase, by the phase's name."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

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
            found[f"collect {path.parent.name}"] = found[f"train {path.parent.name}"] = read_json(
                path
            )
        for path in sorted((folder.path / "evaluations").glob("*/metrics.json")):
            found[f"evaluate {path.parent.name}"] = read_json(path)
        return cls(found)

    def agents(self, phase: str, student: Agent, teacher: Agent) -> tuple[Agent, Agent]:
        """As they were in this phase; as given where that is not known."""
        seen = self.metrics.get(phase)
        if not seen or not seen["turns"]:
            return student, teacher
        turns = seen["mean_turns"]
        student, teacher = replace(student, turns=turns), replace(teacher, turns=turns)
        own = seen["turns"] * (1 - seen["teacher_share"])
        if own and seen["sampled_tokens"]:
            student = replace(student, generated=seen["sampled_tokens"] / own)
        return student, teacher

    def trees(self, phase: str, trees: Sequence[int], share: float, epochs: int) -> list[int]:
        """Their sizes: ``share`` times the given, or of the same sum and number as they were."""
        seen = self.metrics.get(phase, {})
        if "trees" in seen:
            count = seen["trees"]
            return [round(seen["trained_tokens"] / epochs / count)] * count
        if not trees:
            return []
        count = max(1, round(share * len(trees)))
        return [trees[place % len(trees)] for place in range(count)]
