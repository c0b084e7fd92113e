"""How far a run is, from its files alone, which are read as they grow.

Nothing is asked of the process that runs: the one who watches may be on another machine, and a run
that is killed and started again is the same run.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from yaml import YAMLError

from experiments.runs import layout
from experiments.runs.folders import RunFolder, phases_so_far
from experiments.runs.layout import ITERATION0, UNTRAINED
from experiments.runs.naming import evaluated_on, untrained_folder, untrained_tasks
from experiments.runs.reader import load_config
from swe_gym_env.rollout.store import RoundFolder, parsed
from swe_gym_env.types import Episode, Outcome, from_dict

WINDOW = 600.0  # seconds over which a rate is taken


@dataclass
class Tail:
    """The episodes of a round or an evaluation that another process appends to.

    Attributes:
        folder: Of the round or the evaluation.
        outcomes: By episode id, that of its last attempt.
    """

    folder: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _offset: int = 0
    _arrived: deque[tuple[float, int]] = field(default_factory=deque)

    def read(self, now: float) -> list[Episode]:
        """What has come since the last time; whole lines only."""
        try:
            with (self.folder / layout.EPISODES).open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # begun anew
                    self.outcomes, self._offset = {}, 0
                    self._arrived.clear()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        fresh = [episode for line in whole.split(b"\n") if (episode := _episode(line))]
        for episode in fresh:
            self.outcomes[episode.episode_id] = episode.outcome
        if not self._arrived or fresh:
            self._arrived.append((now, len(self.outcomes)))
        while len(self._arrived) > 2 and now - self._arrived[0][0] > WINDOW:
            self._arrived.popleft()
        return fresh

    def rate(self, now: float) -> float | None:
        """Episodes a second while it was looked at; None before two have come."""
        if not self._arrived:
            return None
        (since, before), (_, last) = self._arrived[0], self._arrived[-1]
        return (last - before) / (now - since) if last - before >= 2 and now > since else None


def _episode(line: bytes) -> Episode | None:
    row = parsed(line)
    try:
        return None if row is None else from_dict(Episode, row)
    except (TypeError, ValueError, AttributeError):  # damaged
        return None


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        title: For people.
        folder: Of the round or the evaluation that it belongs to.
        marker: What ends in it: collect, score, train or evaluate.
        total: Its number of episodes; 0 if that is not known.
    """

    title: str
    folder: Path
    marker: str
    total: int = 0

    @property
    def done(self) -> bool:
        return RoundFolder(self.folder).is_done(self.marker)

    @property
    def plays(self) -> bool:
        return self.marker in ("collect", "evaluate")


def phases(run: Path) -> list[Phase]:
    """All that a run, or an evaluation, has to go through, as its config.yaml says; [] before that
    is written."""
    if not layout.is_configured(run):
        return []
    try:
        cfg = load_config(run)
    except YAMLError:  # just being written
        return []
    if not {"rounds", "iteration0", "evaluation", "algorithm"} <= set(cfg):
        return []
    folder = RunFolder(run)
    heldout = len((folder.tasks or {}).get("heldout", ()))
    heldout = heldout or int(cfg.evaluation.tasks or 0)
    if alone(run):
        samples = int(cfg.evaluation.get("samples") or 1)
        return [Phase(run.name, run, "evaluate", heldout * samples)]
    return list(_phases(folder, cfg, heldout))


def _phases(run: RunFolder, cfg: DictConfig, heldout: int) -> Iterator[Phase]:
    places = {UNTRAINED: untrained_folder(cfg), ITERATION0: f"{evaluated_on(cfg)}/{ITERATION0}"}
    first = {
        name: own if (own := run.evaluation(name).path).exists() else run.shared.evaluation(at).path
        for name, at in places.items()
    }
    if (count := untrained_tasks(cfg)) != 0:
        total = heldout if count is None else min(count, heldout)
        yield Phase("evaluate untrained", first[UNTRAINED], "evaluate", total)
    repeats = int(cfg.algorithm.get("repeats") or 1)
    for index in range(int(cfg.rounds) + 1):
        folder = run.round(index).path
        count = int(cfg.episodes_per_round) * repeats if index else int(cfg.iteration0.episodes)
        yield Phase(f"round {index}: collect", folder, "collect", count)
        if (folder / layout.SCORES).exists():
            yield Phase(f"round {index}: score", folder, "score")
        yield Phase(f"round {index}: train", folder, "train")
        if index == 0:
            yield Phase("evaluate iteration 0", first[ITERATION0], "evaluate", heldout)
        elif cfg.evaluation.every_round or index == cfg.rounds:
            title = f"evaluate {layout.evaluation_label(folder.name)}"
            yield Phase(title, run.evaluation(folder.name).path, "evaluate", heldout)


def alone(folder: Path) -> bool:
    """Whether it is an evaluation that is not part of a run."""
    return folder.name.startswith("evaluation-") or layout.has_episodes(folder)


class Watch:
    """The phases of a run and the episodes that have come, brought up to date by :meth:`look`."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.phases: list[Phase] = []
        self.latest: deque[Episode] = deque(maxlen=8)
        self._tails: dict[Path, Tail] = {}

    def look(self) -> list[Episode]:
        """The episodes that are new since the last look, of phases that are not over."""
        now = time.monotonic()
        self.phases = phases(self.run) or list(self._other())
        fresh: list[Episode] = []
        for phase in self.phases:
            if phase.plays:
                came = self.tail(phase).read(now)
                self.latest.extend(came)
                fresh += came
        return fresh

    def _other(self) -> Iterator[Phase]:
        """Of a folder that is no run: an evaluation, say."""
        for path in sorted(self.run.glob(f"**/{layout.EPISODES}")):
            name = "/".join(path.parent.relative_to(self.run).parts) or self.run.name
            yield Phase(name, path.parent, "evaluate")

    def tail(self, phase: Phase) -> Tail:
        return self._tails.setdefault(phase.folder, Tail(phase.folder))

    def under_way(self) -> list[Phase]:
        """Those that have begun and not ended, else the next one."""
        open_ = [phase for phase in self.phases if not phase.done]
        begun = [phase for phase in open_ if phase.plays and self.tail(phase).outcomes]
        return begun or open_[:1]

    @property
    def finished(self) -> bool:
        if alone(self.run):
            return RoundFolder(self.run).is_done("evaluate")
        return (self.run / layout.SUMMARY).exists()

    @property
    def process(self) -> int | None:
        """The process that works in the run, if it is on this machine and alive."""
        return RunFolder(self.run).process

    @property
    def took(self) -> dict[str, float]:
        return phases_so_far(self.run)

    def left(self, phase: Phase) -> float | None:
        """Seconds until the phase has all its episodes; None where that is not known."""
        tail = self.tail(phase)
        rate, missing = tail.rate(time.monotonic()), phase.total - len(tail.outcomes)
        return missing / rate if rate and missing > 0 else None
