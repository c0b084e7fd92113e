"""A run folder with many episodes, made without a model, for measurements of what reads it.

Lengths are lognormal, as those of real episodes are, and the texts are lines of Python's own
library, so that JSON and gzip find what they would find in a real run. Everything depends on the
number of an episode alone: two folders of the same size are the same, byte for byte.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.runs import layout
from experiments.runs.folders import RunFolder
from swe_gym_env.disk import write_text
from swe_gym_env.rollout.store import ATTEMPT, FILES, RoundFolder
from swe_gym_env.types import Annotation, Episode, Outcome, ToolCall, Turn, to_dict

TASKS = 500  # that the episodes of one part are of
SUBMITTED = "```bash\nfinish\n```"
LABELED = 0.6  # share of the turns of a round that the student took, and the teacher labeled


@dataclass(frozen=True)
class Shape:
    """How long episodes are.

    Attributes:
        turns: Median number of turns.
        lines: Median number of lines of an observation.
        tests: Tests whose status is stored with an episode.
    """

    turns: int
    lines: int
    tests: int


SMALL = Shape(4, 12, 60)  # bugs in small packages, as the demo has them
LARGE = Shape(24, 40, 120)  # SWE-bench


class Writer:
    """Makes episodes of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        sources = sorted(Path(os.__file__).parent.glob("*.py"))[:60]
        self._lines = [line for path in sources for line in path.read_text("utf-8").splitlines()]

    def _text(self, rng: random.Random, lines: int) -> str:
        count = min(400, max(1, round(rng.lognormvariate(math.log(lines), 0.8))))
        start = rng.randrange(len(self._lines) - 400)
        return "\n".join(self._lines[start : start + count])

    def _turn(self, rng: random.Random, actor: str, last: bool) -> Turn:
        command = f"sed -n '{rng.randrange(400)},+40p' src/package/{rng.randrange(20)}.py"
        thought = self._text(rng, 2)
        text = SUBMITTED if last else f"{thought}\n```bash\n{command}\n```"
        sampled = round(len(text) / 3.5) if actor == "student" else 0
        return Turn(
            observation=self._text(rng, self.shape.lines),
            actor=actor,  # type: ignore[arg-type]
            text=text,
            action=ToolCall("finish") if last else ToolCall("bash", {"command": command}, thought),
            token_ids=tuple(rng.randrange(150_000) for _ in range(sampled)),
            logprobs=tuple(-rng.expovariate(3) for _ in range(sampled)),
            act_seconds=rng.random(),
            step_seconds=rng.random() / 10,
            patch=self._text(rng, 8) if rng.random() < 0.2 else None,
        )

    def episode(self, part: str, index: int, number: int, share: float) -> Episode:
        """Number ``number`` of a part of the run; the teacher takes ``share`` of the turns."""
        rng = random.Random(f"{part}/{number}")
        turns = min(100, max(2, round(rng.lognormvariate(math.log(self.shape.turns), 0.5))))
        actors = ["teacher" if rng.random() < share else "student" for _ in range(turns)]
        played = tuple(self._turn(rng, who, k == turns - 1) for k, who in enumerate(actors))
        resolved = rng.random() < 0.4
        status = "PASSED" if resolved else "FAILED"
        tests = {f"tests/test_{k % 7}.py::test_case_{k}": "PASSED" for k in range(self.shape.tests)}
        task = f"owner__package-{number % TASKS:04d}"
        return Episode(
            episode_id=f"{task}/{index}/{number // TASKS}/0",
            instance_id=task,
            seed=0,
            round=index,
            repeat=number // TASKS,
            system_prompt="\n".join(self._lines[:30]),
            turns=played,
            outcome=Outcome(
                "resolved" if resolved else "unresolved",
                float(resolved),
                tests=tests | {"tests/test_0.py::test_the_bug": status},
                seconds=rng.random(),
            ),
            stop_reason="finished" if rng.random() < 0.8 else "max_turns",
            final_observation=self._text(rng, 1),
            patch=self._text(rng, 12),
            seconds=60 * rng.random(),
            metadata={"tokens": rng.randrange(4000, 40_000)},
        )

    def labels(self, episode: Episode) -> Iterator[Annotation]:
        rng = random.Random(f"labels/{episode.episode_id}")
        for number, turn in enumerate(episode.turns):
            executed = turn.actor == "teacher"
            if executed or rng.random() < LABELED:
                text = turn.text if executed else self._turn(rng, "teacher", False).text
                yield Annotation(
                    episode.episode_id, number, "expert", text, turn.action, executed=executed
                )


def write_run(folder: Path, episodes: int, shape: Shape = SMALL) -> Path:
    """A run with three evaluations and three rounds of ``episodes / 6`` episodes each."""
    writer, run, count = Writer(shape), RunFolder(folder), episodes // 6
    for name, index in ((layout.UNTRAINED, 0), (layout.ITERATION0, 0), (layout.round_name(2), 2)):
        evaluation = run.evaluation(name)
        _write(evaluation, (writer.episode(name, index, k, 0.0) for k in range(count)))
        evaluation.mark_done("evaluate")
    for index, share in ((0, 1.0), (1, 0.6), (2, 0.3)):
        part = run.round(index)
        _write(part, (writer.episode(f"r{index}", index, k, share) for k in range(count)), writer)
        part.add_metrics(
            round=index,
            planned_teacher_share=share,
            losses=[2.2 * 0.97**k for k in range(200)],
            teacher_calls=100 * (index + 1),
            trained_tokens=7000,
        )
    write_text(folder / layout.CONFIG, "seed: 0\n")
    return folder


def _write(part: RoundFolder, episodes: Iterable[Episode], labels: Writer | None = None) -> None:
    """As ``RoundFolder.append`` writes them, without bringing each line to the disk."""
    part.path.mkdir(parents=True, exist_ok=True)
    with (
        (part.path / layout.EPISODES).open("w") as file,
        (part.path / FILES[Annotation]).open("w") as beside,
    ):
        for number, episode in enumerate(episodes):
            tag = {ATTEMPT: f"{number:08x}"}
            file.write(json.dumps({**to_dict(episode), **tag}) + "\n")
            for label in labels.labels(episode) if labels else ():
                beside.write(json.dumps({**to_dict(label), **tag}) + "\n")
