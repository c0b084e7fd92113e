"""Any table with a curve as a figure: Vega-Lite says what is drawn, vl-convert draws it as SVG.

The SVG names the page's colors (``var(--student)``), so that it follows light and dark. No browser
is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.figure_data import (
    GAP,
    above,
    apart,
    rounded,
    series_of,
    short,
    shown,
    values_of,
)
from experiments.results.tables import Curve, Table
from swe_gym_env.errors import SetupError

HEIGHT, LETTER = 190, 6.1  # pixels: of the plot, and a letter's width on average
SERIES = ("student", "teacher", "good", "violet", "gold", "bad")
DOTS, BANDS = 24, 12  # points of a line above which it has no dots, and a band for its intervals
NUMBER = "abs(datum.value) < 1000 ? format(datum.value, '~g') : format(datum.value, '~s')"


@dataclass(frozen=True)
class Style:
    """How one line looks: a color of ``palette.css``, and whether it stays in the background."""

    color: str
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """One row of a :func:`forest`: a mean, its interval, and the single values it comes from."""

    label: str
    mean: float
    low: float
    high: float
    dots: Sequence[float] = ()


def curve(
    table: Table,
    drawn: Curve | None = None,
    *,
    styles: Mapping[str, Style] | None = None,
    words: Mapping[float, str] | None = None,
    only: str | None = None,
    top: float | None = None,
    width: int = 360,
) -> str:
    """``drawn`` (else the table's own curve) as SVG. ``words`` replace numbers on the x axis,
    ``only`` is the one line of a small multiple: the others are drawn faintly behind it. ``top``
    ends the y axis, so that several figures share it."""
    drawn = drawn or table.curve
    assert drawn
    rows = _rows(table, drawn)
    names = list(dict.fromkeys(row["by"] for row in rows))
    styles = styles or {n: Style(SERIES[k % len(SERIES)]) for k, n in enumerate(names)}
    if only is not None:
        styles = {n: Style("student" if n == only else "dim", faint=n != only) for n in names}
    for row in rows:
        row["faint"] = styles[row["by"]].faint
        row["line"] = names.index(row["by"])  # names are not put into expressions
    _place(rows)
    low, high = above(rows, top)
    labels = _labels(rows, names, (high - low) * GAP / HEIGHT, high) if only is None else []
    right = 14 + round(max((len(row["by"]) for row in labels), default=0) * LETTER)
    x = _x(rows, words or {}, width - 44 - right)
    y = {
        "type": "quantitative",
        "scale": {"domain": [low, high], "nice": False},
        "axis": {"values": rounded(low, high), "labelExpr": _label_expr(drawn.percent)},
    }
    color = {
        "field": "by",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": names, "range": [f"var(--{styles[n].color})" for n in names]},
    }
    shared = {"x": x, "color": color}
    layers = [*_intervals(rows, y), *_lines(names, styles, y), *_dots(rows, y)]
    if labels:
        at = {"x": x, "y": {"field": "at", **y}, "text": {"field": "by"}}
        mark = {"type": "text", "align": "left", "dx": 8, "fontSize": 11}
        layers.append({"data": {"values": labels}, "mark": mark, "encoding": at})
    spec = {"data": {"values": rows}, "encoding": shared, "layer": layers}
    x["title"] = title = None if words or only is not None else drawn.x
    padding = {"left": 44, "right": right, "top": 8, "bottom": 38 if title else 22}
    return _svg(spec, width, HEIGHT, padding)


def forest(marks: Sequence[Mark], *, zero: bool = False, width: int = 540) -> str:
    """Shares, a row each: mean, interval, single values. ``zero``: differences around a line."""
    ends = [0.0, *(v for m in marks for v in (m.low, m.high, *m.dots))]
    steps = rounded(min(ends), max(ends))
    names = [shown(mark.label) for mark in marks]
    left = 14 + round(min(30, max(map(len, names))) * LETTER)
    y: dict[str, Any] = {"type": "ordinal", "field": "label", "sort": names, "title": None}
    y["axis"] = {
        "labelLimit": left - 12,
        "labelColor": "var(--ink)",
        "labelPadding": 8,
        "grid": False,
    }
    x: dict[str, Any] = {"type": "quantitative", "title": None}
    x["scale"] = {"domain": [steps[0], steps[-1]], "nice": False}
    x["axis"] = {"values": steps, "labelExpr": _label_expr(True, signed=zero)}
    rows = [
        {"label": n, "mean": m.mean, "low": m.low, "high": m.high, "tip": _tip(n, m)}
        for n, m in zip(names, marks, strict=True)
    ]
    dots = [{"label": n, "v": v} for n, m in zip(names, marks, strict=True) for v in m.dots]
    pale = {"type": "rule", "strokeWidth": 6, "opacity": 0.28, "color": "var(--student)"}
    single = {"type": "point", "size": 20, "color": "var(--student)", "yOffset": 8}
    single |= {"opacity": 0.75, "strokeWidth": 1, "filled": False}
    mean = {"type": "point", "filled": True, "size": 46, "opacity": 1, "color": "var(--student)"}
    described = {"field": "tip", "type": "nominal"}
    layers: list[dict[str, Any]] = [
        {"mark": pale, "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}},
        {"data": {"values": dots}, "mark": single, "encoding": {"x": {**x, "field": "v"}, "y": y}},
        {"mark": mean, "encoding": {"x": {**x, "field": "mean"}, "y": y, "description": described}},
    ]
    if zero:
        line = {"type": "rule", "color": "var(--dim)", "strokeDash": [2, 3]}
        layers.insert(0, {"data": {"values": [{}]}, "mark": line, "encoding": {"x": {"datum": 0}}})
    spec = {"data": {"values": rows}, "layer": layers}
    return _svg(spec, width, 30 * len(marks), {"left": left, "right": 20, "top": 6, "bottom": 26})


def _tip(name: str, mark: Mark) -> str:
    return f"{name}: {mark.mean:.1%} ({mark.low:.1%} to {mark.high:.1%})"


def _rows(table: Table, drawn: Curve) -> list[dict[str, Any]]:
    """The measured rows as Vega-Lite reads them: x, y, low, high, by and a tip."""
    found = []
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        x, y = cells[drawn.x], cells[drawn.y]
        if x is None or not isinstance(y, int | float):
            continue
        named = shown(series_of(cells, drawn))
        one: dict[str, Any] = {"x": shown(x) if isinstance(x, str) else x, "y": y, "by": named}
        bounds = values_of(cells, drawn.low), values_of(cells, drawn.high)
        number = (lambda v: f"{v:.1%}") if drawn.percent else (lambda v: f"{v:.4g}")
        tip = f"{named + ', ' if named else ''}{drawn.x} {one['x']}: {number(y)}"
        if bounds[0] is not None and bounds[1] is not None:
            one["low"], one["high"] = bounds
            tip += f" ({number(bounds[0])} to {number(bounds[1])})"
        found.append({**one, "tip": tip})
    return found


def _words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The words on the x axis, in the order of the table; none if it has numbers only."""
    found = any(isinstance(row["x"], str) for row in rows)
    return list(dict.fromkeys(str(row["x"]) for row in rows)) if found else []


def _place(rows: Sequence[dict[str, Any]]) -> None:
    """Give each row its ``place`` along the x axis. Vega-Lite would connect words as text sorts
    them: "round 10" before "round 2"."""
    names = {word: place for place, word in enumerate(_words(rows))}
    for row in rows:
        row["place"] = names[str(row["x"])] if names else row["x"]


def _placed(row: Mapping[str, Any]) -> float:
    return float(row["place"])


def _x(rows: Sequence[Mapping[str, Any]], words: Mapping[float, str], room: int) -> dict[str, Any]:
    """Words are places in their order, numbers a scale; whole ones are not divided."""
    names = _words(rows)
    if names:
        scale = {"type": "point", "padding": 0.3}
        return {"field": "x", "type": "ordinal", "sort": names, "scale": scale}
    places = sorted({row["x"] for row in rows})
    ends = [places[0], places[-1]] if places[0] < places[-1] else [places[0] - 1, places[0] + 1]
    axis: dict[str, Any] = {"tickCount": max(2, room // 60), "labelExpr": NUMBER}
    if words or (len(places) <= 12 and all(float(p).is_integer() and abs(p) < 100 for p in places)):
        axis = {"values": places[:: 1 + len(places) * 22 // room], "format": "d"}
    if words:
        cases = "".join(f"datum.value == {place} ? {word!r} : " for place, word in words.items())
        axis["labelExpr"] = f"{cases}datum.label"
    scale = {"domain": ends, "nice": False, "padding": 12, "zero": False}
    return {"field": "x", "type": "quantitative", "scale": scale, "axis": {**axis, "grid": False}}


def _label_expr(percent: bool, signed: bool = False) -> str:
    if signed:
        return "(datum.value > 0 ? '+' : '') + format(datum.value * 100, '~g')"
    return "format(datum.value * 100, '~g') + ' %'" if percent else NUMBER


def _intervals(rows: Sequence[Mapping[str, Any]], y: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not any("low" in row for row in rows):
        return []
    many = len(rows) > BANDS * len({row["by"] for row in rows})
    pale = {"type": "area", "opacity": 0.16} if many else {"type": "rule", "strokeWidth": 5}
    pale.setdefault("opacity", 0.26)
    kept = [{"filter": "!datum.faint && isValid(datum.low)"}]
    bounds = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    return [{"transform": kept, "mark": pale, "encoding": bounds}]


def _lines(
    names: Sequence[str], styles: Mapping[str, Style], y: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Those in the background first."""
    layers = []
    for name in sorted(names, key=lambda n: not styles[n].faint):
        style = styles[name]
        mark = {"type": "line", "strokeWidth": 1.1 if style.faint else 1.9, "strokeJoin": "round"}
        mark |= {"opacity": 0.38 if style.faint else 1}
        if style.dashed:
            mark["strokeDash"] = [3, 3]
        kept = [{"filter": {"field": "line", "equal": names.index(name)}}]
        encoding = {"y": {**y, "field": "y"}, "order": {"field": "place"}}
        layers.append({"transform": kept, "mark": mark, "encoding": encoding})
    return layers


def _dots(rows: Sequence[Mapping[str, Any]], y: Mapping[str, Any]) -> list[dict[str, Any]]:
    if len(rows) > DOTS * len({row["by"] for row in rows}):
        return []
    mark = {"type": "point", "filled": True, "size": 40, "opacity": 1}
    encoding = {"y": {**y, "field": "y"}, "description": {"field": "tip", "type": "nominal"}}
    return [{"transform": [{"filter": "!datum.faint"}], "mark": mark, "encoding": encoding}]


def _labels(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], gap: float, top: float
) -> list[dict[str, Any]]:
    """Where the name of each line stands: at its end, moved so that names do not overlap and none
    lies above ``top``."""
    if len(names) < 2:
        return []
    x = max(rows, key=_placed)["x"]
    lasts = [max((row for row in rows if row["by"] == name), key=_placed) for name in names]
    places = apart([row["y"] for row in lasts], gap)
    above = max(0.0, max(places) - top)
    return [
        {"x": x, "at": at - above, "by": short(row["by"])}
        for row, at in zip(lasts, places, strict=True)
    ]


def _svg(spec: dict[str, Any], width: int, height: int, padding: Mapping[str, int]) -> str:
    try:
        import vl_convert
    except ImportError:
        raise SetupError("figures need vl-convert: pip install -e '.[run]'") from None
    text: dict[str, Any] = {
        "labelColor": "var(--dim)",
        "titleColor": "var(--dim)",
        "titleFontWeight": "normal",
    }
    text |= {"labelFontSize": 11, "titleFontSize": 11, "titlePadding": 8}
    axis = {**text, "gridColor": "var(--rule)", "domain": False, "ticks": False}
    axis |= {"labelPadding": 6, "labelFlush": False}
    spec |= {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": width - padding["left"] - padding["right"],
        "height": height,
        "padding": padding,
        "autosize": "none",
        "background": None,
        "config": {
            "font": "sans-serif",
            "view": {"stroke": None},
            "axis": axis,
            "axisY": {"title": None},
        },
    }
    return vl_convert.vegalite_to_svg(spec)
