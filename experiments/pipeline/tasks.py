"""Which tasks a run uses: fixed by the seed when it begins, and written down.

Training tasks are taken in one seeded order: iteration 0 has the first, each round the next, and
once all have been used they come again. The held-out tasks are the same for every evaluation.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from experiments.console.progress import Display
from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import keyed_rng
from swe_gym_env.rollout.driver import Request
from swe_gym_env.types import TaskInstance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """``iteration0`` of the ``train`` tasks' episodes come before the rounds'."""

    train: Sequence[TaskInstance]
    heldout: Sequence[TaskInstance]
    seed: int
    iteration0: int
    per_round: int

    @property
    def ids(self) -> dict[str, list[str]]:
        return {
            "train": [task.instance_id for task in self.train],
            "heldout": [task.instance_id for task in self.heldout],
        }

    def requests(self, round: int, extra: int = 0) -> list[Request]:
        """One episode each; a task that comes again in the same round is another repeat. ``extra``
        more tasks are those that the next round begins with."""
        first = self.iteration0 + (round - 1) * self.per_round if round else 0
        count = (self.per_round if round else self.iteration0) + extra
        seen: Counter[str] = Counter()
        requests = []
        for position in range(first, first + count):
            task = self.train[position % len(self.train)]
            requests.append(Request(task, self.seed, round, seen[task.instance_id]))
            seen[task.instance_id] += 1
        return requests

    def evaluation(self, samples: int | None = None) -> list[Request]:
        """One episode a task, or so many."""
        repeats = range(samples or 1)
        return [Request(task, self.seed, repeat=n) for task in self.heldout for n in repeats]


def select(cfg: DictConfig, saved: dict[str, list[str]] | None, display: Display) -> Selection:
    """The tasks of ``saved`` (tasks.json) where the run has begun, else a fresh choice. Where 0 are
    wanted, none."""
    limits = {"train": cfg.tasks.train, "heldout": cfg.evaluation.tasks}
    splits = {"train": "train", "heldout": cfg.evaluation.split}
    ids = {"heldout": cfg.evaluation.get("ids")}
    chosen = {
        part: []
        if limits[part] == 0
        else _load(cfg, splits[part], limits[part], ids.get(part), display)
        for part in splits
    }
    if saved:
        chosen |= {part: _again(ids, chosen[part], part) for part, ids in saved.items()}
    return Selection(
        seed=cfg.seed,
        iteration0=cfg.iteration0.episodes,
        per_round=cfg.episodes_per_round,
        **chosen,
    )


def _load(
    cfg: DictConfig, split: str, limit: int | None, ids: Sequence[str] | None, display: Display
) -> list[TaskInstance]:
    """In seeded order. What a source builds is built now, with its own progress."""
    options: dict[str, Any] = {str(name): value for name, value in cfg.tasks.options.items()}
    if ids and "instances" in options:  # such a source need build no others
        options["instances"], limit = list(ids), None
    elif ids and not tasks.is_built(cfg.tasks.name):  # to read them all costs nothing
        limit = None
    with display.phase(f"tasks: {split}", limit or 0) as advance:
        if tasks.is_built(cfg.tasks.name):
            options["workers"] = cfg.workers.build
            options["progress"] = lambda done, total, note: advance.to(done, total, note)
        found = tasks.load(cfg.tasks.name, split=split, limit=limit, **options)
        advance.to(len(found), len(found))
    if not found:
        raise SetupError(f"tasks={cfg.tasks.name} has no tasks in the split {split!r}")
    if ids:
        here = {task.instance_id: task for task in found}
        if unknown := [one for one in ids if one not in here]:
            more = f" (evaluation.tasks={limit} makes no others)" if limit else ""
            raise SetupError(
                f"no task {', '.join(unknown)} among the {len(here)} of tasks={cfg.tasks.name}, "
                f"split {split!r}{more}; there are {', '.join(sorted(here)[:3])}, ..."
            )
        found = [here[one] for one in ids]
    elif limit and len(found) < limit:
        log.warning("only %d tasks in the split %r, not %d", len(found), split, limit)
    found.sort(key=lambda task: task.instance_id)
    return [found[i] for i in keyed_rng((cfg.seed, split)).permutation(len(found))]


def _again(ids: list[str], found: list[TaskInstance], split: str) -> list[TaskInstance]:
    here = {task.instance_id: task for task in found}
    gone = [one for one in ids if one not in here]
    if gone:
        raise SetupError(
            f"this run began with {split} tasks that are no longer there: {gone[0]} and "
            f"{len(gone) - 1} more. Build them again, or start afresh with another seed"
        )
    return [here[one] for one in ids]
