"""Split off a fixed held-out part of task sets that are published without one.

Which tasks are held out depends only on the seed and the ids, not on the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TypeVar

from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance

SPLITS = ("train", "heldout", "all")
Item = TypeVar("Item")


def split_tasks(
    items: Sequence[Item],
    split: str,
    count: int,
    seed: int,
    limit: int | None,
    task: Callable[[Item], TaskInstance] = lambda item: item,  # type: ignore[assignment,return-value]
    name: Callable[[Item], str] = attrgetter("instance_id"),
) -> list[TaskInstance]:
    """The tasks of ``split``, with their field ``split`` set.

    Held out are the ``count`` ids with the smallest sha256 of "SEED:ID", over all repositories.
    Tasks are made only of the chosen items.

    Raises:
        SetupError: The split is unknown, an id occurs twice, or there are too few tasks.
    """
    if split not in SPLITS:
        raise SetupError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    ids = [name(item) for item in items]
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise SetupError(f"task {twice} comes more than once")
    if split != "all" and count >= len(ids):
        raise SetupError(f"heldout={count} leaves nothing of {len(ids)} tasks: choose fewer")
    held = set(sorted(ids, key=lambda one: _key(seed, one))[:count])
    parts = ("heldout" if one in held else "train" for one in ids)
    both = zip(items, parts, strict=True)
    chosen = [(item, part) for item, part in both if split in ("all", part)]
    return [replace(task(item), split=part) for item, part in chosen[:limit]]


def _key(seed: int, instance_id: str) -> str:
    return hashlib.sha256(f"{seed}:{instance_id}".encode()).hexdigest()
