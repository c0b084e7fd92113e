"""How far a run is, told by its files alone.

Whoever looks on need not be where the run is, and a run that is killed and started again is the
same run: the files are read as they grow, and nothing is asked of the process.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.results.summary import ITERATION0, UNTRAINED, label
from experiments.runs.folders import phases_so_far, read_json
from experiments.runs.naming import evaluated_on, untrained_folder, untrained_tasks
from swe_gym_env.rollout.store import parsed

EPISODES = "episodes.jsonl"
WINDOW = 600.0  # seconds over which a rate is taken


@dataclass
class Tail:
    """The episodes of a file that another process appends to: the latest of each id counts."""

    path: Path
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _offset: int = 0
    _arrived: deque[tuple[float, int]] = field(default_factory=deque)

    def read(self, now: float) -> list[dict[str, Any]]:
        """What has come since the last time; whole lines only."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # begun anew
                    self.rows, self._offset = {}, 0
                    self._arrived.clear()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        fresh = [row for row in map(parsed, whole.split(b"\n")) if row and _is_episode(row)]
        for row in fresh:
            outcome = row["outcome"]
            self.rows[row["episode_id"]] = {
                "resolved": outcome["status"] == "resolved",
                "mask": outcome["mask"],
            }
        if not self._arrived or fresh:
            self._arrived.append((now, len(self.rows)))
        while len(self._arrived) > 2 and now - self._arrived[0][0] > WINDOW:
            self._arrived.popleft()
        return fresh

    def rate(self, now: float) -> float | None:
        """Episodes a second while it was looked at; None before two have come."""
        if not self._arrived:
            return None
        (since, before), (_, last) = self._arrived[0], self._arrived[-1]
        return (last - before) / (now - since) if last - before >= 2 and now > since else None


def _is_episode(row: Mapping[str, Any]) -> bool:
    return {"episode_id", "outcome", "turns", "instance_id"} <= row.keys()


@dataclass(frozen=True)
class Phase:
    """``marker`` is the file that stands for its end. ``total`` 0: how many is not known."""

    title: str
    folder: Path
    marker: str
    total: int = 0

    @property
    def done(self) -> bool:
        return (self.folder / f"{self.marker}.done").exists()

    @property
    def plays(self) -> bool:
        return self.marker in ("collect", "evaluate")


def phases(run: Path) -> list[Phase]:
    """All that a run, or an evaluation, has to go through, as its config.yaml says; [] before that
    is written."""
    from omegaconf import DictConfig, OmegaConf
    from yaml import YAMLError

    if not (run / "config.yaml").is_file():
        return []
    try:
        cfg = OmegaConf.load(run / "config.yaml")
    except YAMLError:  # just being written
        return []
    if not isinstance(cfg, DictConfig):
        return []
    if not {"rounds", "iteration0", "evaluation", "algorithm"} <= set(cfg):
        return []
    heldout = len((read_json(run / "tasks.json") or {}).get("heldout", ()))
    heldout = heldout or int(cfg.evaluation.tasks or 0)
    if alone(run):
        samples = int(cfg.evaluation.get("samples") or 1)
        return [Phase(run.name, run, "evaluate", heldout * samples)]
    shared = (run / "rounds" / "round_000").resolve().parents[1]
    places = {UNTRAINED: untrained_folder(cfg), ITERATION0: f"{evaluated_on(cfg)}/{ITERATION0}"}
    first = {
        name: run / "evaluations" / name
        if (run / "evaluations" / name).exists()
        else shared / "evaluations" / where
        for name, where in places.items()
    }
    found = []
    if (count := untrained_tasks(cfg)) != 0:
        total = heldout if count is None else min(count, heldout)
        found.append(Phase("evaluate untrained", first[UNTRAINED], "evaluate", total))
    repeats = int(cfg.algorithm.get("repeats") or 1)
    for index in range(int(cfg.rounds) + 1):
        folder = run / "rounds" / f"round_{index:03d}"
        count = int(cfg.episodes_per_round) * repeats if index else int(cfg.iteration0.episodes)
        found.append(Phase(f"round {index}: collect", folder, "collect", count))
        if (folder / "scores.jsonl").exists():
            found.append(Phase(f"round {index}: score", folder, "score"))
        found.append(Phase(f"round {index}: train", folder, "train"))
        if index == 0:
            found.append(Phase("evaluate iteration 0", first[ITERATION0], "evaluate", heldout))
        elif cfg.evaluation.every_round or index == cfg.rounds:
            where = run / "evaluations" / folder.name
            found.append(Phase(f"evaluate {label(folder.name)}", where, "evaluate", heldout))
    return found


def alone(folder: Path) -> bool:
    """Whether it is an evaluation of its own, and no run with evaluations in it."""
    return folder.name.startswith("evaluation-") or (folder / EPISODES).exists()


class Watch:
    """The phases of a run and the episodes that have come, brought up to date by :meth:`look`."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.phases: list[Phase] = []
        self.latest: deque[dict[str, Any]] = deque(maxlen=8)
        self._tails: dict[Path, Tail] = {}

    def look(self) -> list[dict[str, Any]]:
        """The episodes that are new since the last look, of phases that are not over."""
        now = time.monotonic()
        self.phases = phases(self.run) or list(self._other())
        fresh: list[dict[str, Any]] = []
        for phase in self.phases:
            if phase.plays:
                came = self.tail(phase).read(now)
                self.latest.extend(came)
                fresh += came
        return fresh

    def _other(self) -> Iterator[Phase]:
        """Of a folder that is no run: an evaluation, say."""
        for path in sorted(self.run.glob(f"**/{EPISODES}")):
            name = "/".join(path.parent.relative_to(self.run).parts) or self.run.name
            yield Phase(name, path.parent, "evaluate")

    def tail(self, phase: Phase) -> Tail:
        path = phase.folder / EPISODES
        return self._tails.setdefault(path, Tail(path))

    def under_way(self) -> list[Phase]:
        """Those that have begun and not ended, else the next one."""
        open_ = [phase for phase in self.phases if not phase.done]
        begun = [phase for phase in open_ if phase.plays and self.tail(phase).rows]
        return begun or open_[:1]

    @property
    def finished(self) -> bool:
        last = "evaluate.done" if alone(self.run) else "summary.json"
        return (self.run / last).exists()

    @property
    def process(self) -> int | None:
        """Who holds the run's lock, where that process is on this machine and alive."""
        try:
            number = int((self.run / ".lock").read_text())
            os.kill(number, 0)
        except (OSError, ValueError):
            return None
        return number

    @property
    def took(self) -> dict[str, float]:
        return phases_so_far(self.run)

    def left(self, phase: Phase) -> float | None:
        """Seconds until the phase has all its episodes; None where that is not known."""
        tail = self.tail(phase)
        rate, missing = tail.rate(time.monotonic()), phase.total - len(tail.rows)
        return missing / rate if rate and missing > 0 else None
