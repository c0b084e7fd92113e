"""Tables and figures as one page that needs nothing beside it: no server, no network, no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.console.progress import clock
from experiments.report.figure_data import shown
from experiments.results.tables import Cell, Table
from swe_gym_env.disk import write_text

HERE = Path(__file__).parent
THIN = "\u202f"  # between thousands


@dataclass(frozen=True)
class Figure:
    """An SVG of ``charts``; ``caption`` may be empty where a title stands above."""

    caption: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """``kind`` is how the table looks: ``table``, ``folded`` until it is asked for, or ``bars`` for
    (name, seconds)."""

    title: str = ""
    note: str = ""
    table: Table | None = None
    figures: Sequence[Figure] = ()
    kind: str = "table"
    half: bool = False
    small: bool = False  # figures are small multiples


@dataclass(frozen=True)
class Page:
    """``head`` and ``lead`` say what was found; ``links`` are (address, words)."""

    name: str
    kicker: str
    head: str
    lead: str
    sections: Sequence[Section]
    links: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    folded: Sequence[tuple[str, str]] = field(default_factory=tuple)


def write(page: Page, path: Path) -> None:
    env = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    html = env.get_template("page.html.j2").render(
        page=page,
        grid=grid,
        bars=bars,
        svg=Markup,
        css=Markup(
            "".join((HERE / f"{part}.css").read_text("utf-8") for part in ("palette", "page"))
        ),
        js=Markup((HERE / "page.js").read_text("utf-8")),
    )
    write_text(path, html)


def grid(table: Table) -> Markup:
    """The table; an interval stands as ``low to high`` with a mark where it is of a share."""
    drawn = table.curve
    low = drawn.low if drawn else None
    high = drawn.high if drawn else None
    heads, body = [], []
    for place, name in enumerate(table.columns):
        if name == high:
            continue
        css = ' class="n"' if place and _numeric(table, place) else ""
        heading = "95 % interval" if name == low else name
        heads.append(f"<th{css}>{escape(shown(heading))}</th>")
        if name == low and _positive(table, low):
            ends = '<span class="ends"><i>0</i><i>100 %</i></span>'
            heads.append(f'<th aria-hidden="true">{ends}</th>')
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        tds = []
        for place, name in enumerate(table.columns):
            if name == high:
                continue
            if name == low and high:
                tds.append(_between(table, cells, low, high))
                continue
            numeric = place and _numeric(table, place)
            strong = " strong" if drawn and name == drawn.y and low else ""
            dim = " dim" if cells[name] is None else ""
            css = f' class="{"n" if numeric else ""}{strong}{dim}"'
            text = cell(cells[name], name, table.shares, digits(table, place))
            tds.append(f"<td{css}>{escape(text)}</td>")
        body.append(f"<tr>{''.join(tds)}</tr>")
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return Markup(f"<table>{head}<tbody>{''.join(body)}</tbody></table>")


def _between(table: Table, cells: dict[str, Cell], low: str, high: str) -> str:
    assert table.curve
    a, b, y = (cells[name] for name in (low, high, table.curve.y))
    if not all(isinstance(v, int | float) for v in (a, b, y)):
        return '<td class="n dim">–</td>' + "<td></td>" * _positive(table, low)
    words = f"{cell(a, low, table.shares)} to {cell(b, high, table.shares)}"
    if table.curve.y == "difference":
        words = f"{points(float(a))} to {points(float(b))}"  # type: ignore[arg-type]
    mark = ""
    if _positive(table, low):
        place = f"left:{a:.2%};width:{b - a:.2%}"  # type: ignore[operator, str-format]
        dot = f'<i style="{place}"></i><b style="left:{y:.2%}"></b>'
        mark = f'<td><span class="mark">{dot}</span></td>'
    return f'<td class="n">{escape(words)}</td>{mark}'


def _positive(table: Table, low: str | None) -> bool:
    """Its intervals lie between 0 and 1, so that they can be marked on a line."""
    if low is None or low not in table.shares:
        return False
    at = table.columns.index(low)
    return all(row[at] is None or float(row[at]) >= 0 for row in table.rows)  # type: ignore[arg-type]


def _numeric(table: Table, place: int) -> bool:
    return all(isinstance(row[place], int | float | None) for row in table.rows)


def cell(value: Cell, column: str = "", shares: Sequence[str] = (), digits: int = 2) -> str:
    """As a reader wants it; CSV files have all digits."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "–"
    if column in shares:
        return points(value) if column == "difference" else f"{value * 100:.1f} %"
    if column.split()[0:1] == ["p"]:
        return p_value(value)
    whole = isinstance(value, int)
    return f"{value:,.{0 if whole else digits}f}".replace(",", THIN).replace("-", "−")


def digits(table: Table, place: int) -> int:
    """Decimals of a column, the same in all its rows."""
    sizes = [abs(row[place]) for row in table.rows if isinstance(row[place], float)]  # type: ignore[arg-type]
    if all(size == int(size) for size in sizes if math.isfinite(size)):
        return 0
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 20 else 2 if largest >= 0.1 else 4


def points(share: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{share * 100:+.1f}".replace("-", "−")


def bars(table: Table) -> list[tuple[str, str, float]]:
    """(name, time, share of the longest in %) of a table of seconds."""
    seconds = [(str(name), float(value or 0)) for name, value in table.rows]
    longest = max((s for _, s in seconds), default=0.0) or 1.0
    return [(name, clock(s), round(100 * s / longest, 1)) for name, s in seconds]


def p_value(p: float) -> str:
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{digits}"


__all__: list[Any] = [
    "Figure",
    "Page",
    "Section",
    "bars",
    "cell",
    "clock",
    "grid",
    "p_value",
    "points",
    "write",
]
