"""Find near-duplicates across splits: a function of the training set must not be evaluated.

Two functions count as near-duplicates if their statements, as normalized text, consist of nearly
the same words in the same order. The copy in the evaluation split is the one that is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SPLITS = ("train", "val", "heldout", "unseen")  # of two duplicates the earlier split keeps its copy
ALIKE = 0.8
SMALLEST = 6  # tokens; shorter functions are similar by chance, and nothing is learned from them


def shingles(shape: str) -> frozenset[tuple[str, ...]]:
    tokens = re.findall(r"\w+|[^\w\s]+", shape)
    if len(tokens) < SMALLEST:
        return frozenset({tuple(tokens)})
    return frozenset(tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2))


def alike(one: frozenset[tuple[str, ...]], two: frozenset[tuple[str, ...]]) -> bool:
    """Whether the Jaccard similarity of the shingles is at least ``ALIKE``."""
    if min(len(one), len(two)) < ALIKE * max(len(one), len(two)):
        return False
    return len(one & two) >= ALIKE * len(one | two)


def near_duplicates(shapes: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the (split, shape) pairs of which an earlier split has a near-duplicate."""
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
