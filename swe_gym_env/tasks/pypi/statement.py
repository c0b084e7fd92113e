"""The problem statement: a short bug report made from what a failing test said.

It tells what was called, what came and what was expected, in the words of the test's own output.
It never shows the fix: tracebacks into the package are left out. It is short, because the smallest
student reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from swe_gym_env.tasks.pypi.plan import draw

MAX_LINES = 3
MAX_WIDTH = 84
WINDOW = 30  # lines; a longer function is not pointed at as a whole


def best_failure(failures: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The failure that tells most in the fewest words."""
    useful = [f for f in failures if f["statement"]]
    return min(useful or failures, key=_cost, default=None)


def _cost(failure: Mapping[str, Any]) -> tuple[int, int, str]:
    error = failure["error"]
    opaque = "where" not in error and re.match(r"assert (False|None|not True)\b", error) is not None
    size = len(error) + len(failure["statement"])
    return int(opaque), size, failure["test"]


def symptom(module: str, failure: Mapping[str, Any], roots: Sequence[str] = ()) -> str:
    """``module`` is what the reporter imported, ``failure`` as recorded by the suite server."""
    called = _clean(failure["statement"], roots)
    came = _clean(failure["error"], roots)
    params = failure.get("params") or {}
    used = [f"{k} = {v}" for k, v in params.items() if re.search(rf"\b{k}\b", called)]
    used = [_without_addresses(text) for text in used]
    lines = [f"`{module}` misbehaves:"]
    lines += [f"    {line}" for line in _short(called)]
    if used:
        lines.append("with " + _cut(", ".join(used)))
    lines += ["gives", *(f"    {line}" for line in _short(came))]
    return "\n".join(lines)


def _clean(text: str, roots: Sequence[str]) -> str:
    for root in roots:
        text = text.replace(root + "/", "").replace(root, ".")
    text = _without_addresses(text)
    text = re.sub(r"^(AssertionError: )+(?=assert )", "", text)
    return re.sub(r"/(?:[\w.-]+/){2,}(?=[\w.-])", "", text)


def _without_addresses(text: str) -> str:
    """They are others in each run, and a task's statement is always the same."""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return re.sub(r"\.\.\.x?[0-9a-f]{6,}>", "...>", text)  # an address that pytest cut in two


def _short(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    # the diff below an introspected assertion repeats it
    lines = [line for line in lines if line.strip() and not _diff_line(line)]
    margin = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    return [_cut(line[margin:] if i == 0 else line.strip()) for i, line in enumerate(lines)][
        :MAX_LINES
    ]


def _diff_line(line: str) -> bool:
    line = line.strip()
    if re.match(r"\+\s+(where|and)\b", line):
        return False
    noise = r"([-+?]( |$)|At index|Use -v|Full diff|Omitting|Left contains|Right contains|\.\.\.)"
    return re.match(noise, line) is not None


def _cut(line: str) -> str:
    return line if len(line) <= MAX_WIDTH else line[: MAX_WIDTH - 3] + "..."


def problem(metadata: Mapping[str, Any], where: bool = True, window: int = WINDOW) -> str:
    """The statement of one bug, or of several in turn; ``where`` says whether it points at them."""
    parts = metadata.get("parts") or [metadata]
    texts = [located(p["symptom"], p, window) if where else str(p["symptom"]) for p in parts]
    if len(texts) == 1:
        return texts[0]
    numbered = [f"{number}. {text}" for number, text in enumerate(texts, 1)]
    return "\n".join([f"There are {len(texts)} separate faults; all are to be mended.", *numbered])


def located(text: str, metadata: Mapping[str, Any], window: int = WINDOW) -> str:
    """``text`` and where the fault is: the function, or ``window`` lines of it that hold the bug at
    a place drawn by lot, so that their middle gives nothing away."""
    first, last, bug = metadata["line_start"], metadata["line_end"], metadata["lines"][0]
    if last - first + 1 > window:
        low = max(first, bug - window + 1)
        high = min(bug, last - window + 1)
        first = low + int(draw("window", metadata["candidate"]) * (high - low + 1))
        last = first + window - 1
    lines = f"lines {first}-{last}" if last > first else f"line {first}"
    return f"{text}\nThe fault is in `{metadata['function']}` ({metadata['file']}, {lines})."
