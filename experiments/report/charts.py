"""The three curves and the interval marks, as inline SVG.

By hand, because they are small and must follow the page's colours in light and dark, stay sharp and
weigh nothing. Colours are CSS classes; every point carries its numbers as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from experiments.statistics import Rate

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 34


@dataclass(frozen=True)
class Point:
    """``tip`` is shown on hover; ``low`` and ``high`` bound its interval."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """``style`` is a CSS class: student, teacher, faint or planned. ``label`` stands at its end."""

    points: Sequence[Point]
    style: str
    label: str = ""
    dots: bool = True


def ticks(top: float, wanted: int = 4) -> list[float]:
    """Round steps from 0 up to at least ``top``."""
    if not top > 0 or not math.isfinite(top):
        return [0.0, 1.0]
    rough = top / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(k * size for k in (1, 2, 2.5, 5, 10) if k * size >= rough * 0.999)
    return [round(step * k, 10) for k in range(math.ceil(top / step - 1e-9) + 1)]


def percent(value: float) -> str:
    return f"{value * 100:g} %"


def chart(
    lines: Sequence[Line],
    x_labels: Sequence[tuple[float, str]],
    *,
    title: str,
    top: float,
    as_percent: bool = False,
) -> Markup:
    """A figure with a y axis from 0. ``x_labels`` place the words below it."""
    marks = ticks(top)
    xs = [point.x for line in lines for point in line.points] + [x for x, _ in x_labels]
    first, last = min(xs, default=0.0), max(xs, default=1.0)
    margin = 14 if any(line.dots for line in lines) else 0

    def px(x: float) -> float:
        inner = WIDTH - LEFT - RIGHT - 2 * margin
        share = (x - first) / (last - first) if last > first else 0.5
        return round(LEFT + margin + share * inner, 1)

    def py(y: float) -> float:
        return round(HEIGHT - BOTTOM - y / marks[-1] * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for mark in marks:
        text, y = (percent(mark) if as_percent else f"{mark:g}"), py(mark)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y + 3.5}" text-anchor="end">{text}</text>'
        )
    for x, words in x_labels:
        parts.append(
            f'<text class="tick" x="{px(x)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{escape(words)}</text>"
        )
    for line in lines:
        parts.append(_line(line, px, py))
    return Markup("".join(parts) + "</svg>")


def _line(line: Line, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    if not line.points:
        return ""
    path = "M" + "L".join(f"{px(p.x)},{py(p.y)}" for p in line.points)
    parts = [f'<g class="{line.style}"><path class="curve" d="{path}"/>']
    for p in line.points if line.dots else ():
        if p.low is not None and p.high is not None:
            parts.append(
                f'<line class="interval" x1="{px(p.x)}" x2="{px(p.x)}" '
                f'y1="{py(p.low)}" y2="{py(p.high)}"/>'
            )
        parts.append(
            f'<circle cx="{px(p.x)}" cy="{py(p.y)}" r="3.4"><title>{escape(p.tip)}</title></circle>'
        )
    return "".join(parts) + "</g>"


def interval(rate: Rate) -> Markup:
    """The rate on a line from 0 to 100 %, its interval as a bar: read down a column of them."""
    width, middle = 160, 8

    def px(share: float) -> float:
        return round(3 + share * (width - 6), 1)

    return Markup(
        f'<svg class="mark" viewBox="0 0 {width} 16" aria-hidden="true">'
        f'<line class="grid" x1="{px(0)}" x2="{px(1)}" y1="{middle}" y2="{middle}"/>'
        f'<line class="grid" x1="{px(0)}" x2="{px(0)}" y1="4" y2="12"/>'
        f'<line class="grid" x1="{px(1)}" x2="{px(1)}" y1="4" y2="12"/>'
        f'<line class="interval" x1="{px(rate.low)}" x2="{px(rate.high)}" '
        f'y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{px(rate.rate)}" cy="{middle}" r="3.4"/></svg>'
    )


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """A trailing mean, so that the curve shows no step before it happened."""
    out, total = [], 0.0
    for k, value in enumerate(values):
        total += value - (values[k - window] if k >= window else 0.0)
        out.append(total / min(k + 1, window))
    return out
