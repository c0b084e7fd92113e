"""Figures outside a page: with colors instead of their names, and several in one PNG file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import escape

from experiments.report.figure_data import short, shown

PALETTE = Path(__file__).with_name("palette.css")
MARGIN, WIDTH = 32.0, 1250.0  # pixels: around the figures, and how far their rows go
LETTER = 7.0  # of a caption


def colors(theme: str = "light") -> dict[str, str]:
    """The names and colors of ``palette.css``."""
    light, dark = PALETTE.read_text("utf-8").split('[data-theme="dark"]')
    return dict(re.findall(r"--([\w-]+): (#\w+)", light if theme == "light" else dark))


def painted(svg: str, theme: str = "light") -> str:
    """With colors in place of their names, for where no page says what they are."""
    known = colors(theme)
    return re.sub(r"var\(--([\w-]+)\)", lambda name: known[name[1]], svg)


def contact_sheet(title: str, parts: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """The figures (caption, SVG) of all ``parts``, each with its heading and in its own rows, as
    one SVG file that needs nothing else."""
    found, y, widest = [], 28.0, 2 * MARGIN + 11.0 * len(title)
    if title:
        found.append(_words(MARGIN, 48, 22, title))
        y = 72.0
    for heading, figures in parts:
        if heading:
            y += 26
            found.append(_words(MARGIN, y, 15, heading, "bold"))
            y += 8
        x, tallest = MARGIN, 0.0
        for caption, svg in figures:
            width, height = map(float, re.findall(r'(?:width|height)="([\d.]+)"', svg)[:2])
            if x > MARGIN and x + width > WIDTH:
                x, y, tallest = MARGIN, y + tallest + 40, 0.0
            found.append(_words(x, y + 16, 13, short(caption, int(width / LETTER))))
            found.append(svg.replace("<svg ", f'<svg x="{x:g}" y="{y + 26:g}" ', 1))
            tallest, x = max(tallest, height), x + width + 28
            widest = max(widest, x)
        y += tallest + 44
    size = f'width="{widest:g}" height="{y:g}" viewBox="0 0 {widest:g} {y:g}"'
    back = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{back}{"".join(found)}</svg>'
    return painted(svg)


def _words(x: float, y: float, size: int, text: str, weight: str = "normal") -> str:
    style = f'font-family="sans-serif" font-size="{size}" font-weight="{weight}" fill="var(--ink)"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(shown(text))}</text>'


def write_png(svg: str, path: Path) -> Path:
    """At twice its size, for screens of today."""
    import vl_convert

    path.write_bytes(vl_convert.svg_to_png(svg, scale=2))
    return path
