"""Near-duplicates across splits: a function that was trained on must not stand in an evaluation.

Two functions count as near-duplicates when their statements, as normalized text, are nearly the
same words in the same order. The evaluation's copy is the one that goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SPLITS = ("train", "val", "heldout", "unseen")  # earlier keeps, later loses
ALIKE = 0.8
SMALLEST = 6  # tokens; shorter bodies are alike by chance and teach nothing


def shingles(shape: str) -> frozenset[tuple[str, ...]]:
    tokens = re.findall(r"\w+|[^\w\s]+", shape)
    if len(tokens) < SMALLEST:
        return frozenset({tuple(tokens)})
    return frozenset(tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2))


def alike(one: frozenset[tuple[str, ...]], two: frozenset[tuple[str, ...]]) -> bool:
    """Jaccard similarity of the shingles, at least ``ALIKE``."""
    if min(len(one), len(two)) < ALIKE * max(len(one), len(two)):
        return False
    return len(one & two) >= ALIKE * len(one | two)


def near_duplicates(shapes: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of (split, shape) pairs, those that an earlier split already holds."""
    seen: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    dropped: set[tuple[str, str]] = set()
    for split, shape in sorted(set(shapes), key=lambda pair: (SPLITS.index(pair[0]), pair[1])):
        mine = shingles(shape)
        if any(other != split and alike(mine, theirs) for other, theirs in seen):
            dropped.add((split, shape))
        else:
            seen.append((split, mine))
    return dropped


def check_known(split: str) -> Sequence[str]:
    from swe_gym_env.errors import SetupError

    names = SPLITS if split == "all" else tuple(split.split(","))
    for name in names:
        if name not in SPLITS:
            raise SetupError(f"unknown split {name!r}: there are {', '.join(SPLITS)} and all")
    return names
