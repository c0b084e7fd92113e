"""What a figure must know before it is drawn: round steps, room for names, safe text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.results.tables import Cell, Curve

GAP = 13  # pixels between the names of two lines
LONGEST = 22  # letters of such a name


def rounded(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round steps from ``low`` or below up to ``high`` or above."""
    if not high > low or not math.isfinite(high - low):
        return [low, low + 1.0]
    rough = (high - low) / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(k * size for k in (1, 2, 2.5, 5, 10) if k * size >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


def above(rows: Sequence[Mapping[str, Any]], top: float | None) -> tuple[float, float]:
    """The ends of the y axis: 0, or below where values are, and a round number above them all."""
    values = [row[name] for row in rows for name in ("y", "low", "high") if name in row]
    steps = rounded(min(0.0, *values), top if top is not None else max(values))
    return steps[0], steps[-1]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """``places`` moved as little as keeps ``gap`` between neighbors, in the same order."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    blocks: list[list[float]] = []  # middle, members
    for k in order:
        blocks.append([places[k], 1])
        while len(blocks) > 1 and _overlap(blocks[-2], blocks[-1], gap):
            (m2, n2), (m1, n1) = blocks.pop(), blocks.pop()
            blocks.append([(m1 * n1 + m2 * n2) / (n1 + n2), n1 + n2])
    found = [m + gap * (k - (n - 1) / 2) for m, n in blocks for k in range(int(n))]
    moved = dict(zip(order, found, strict=True))
    return [moved[k] for k in range(len(places))]


def _overlap(below: Sequence[float], over: Sequence[float], gap: float) -> bool:
    return over[0] - below[0] < gap * (below[1] + over[1]) / 2 - 1e-12


def shown(text: object) -> str:
    """Text as a picture can hold it: no control characters, no half of a surrogate pair."""
    safe = str(text).encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029\ufffe\uffff]", " ", safe)


def short(name: str, longest: int = LONGEST) -> str:
    """So that the name of a line leaves room for the line."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def series_of(cells: Mapping[str, Cell], drawn: Curve) -> str:
    return "" if drawn.by is None else str(cells[drawn.by])


def values_of(cells: Mapping[str, Cell], column: str | None) -> float | None:
    value = cells[column] if column else None
    return float(value) if isinstance(value, int | float) else None
