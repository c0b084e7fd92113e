"""Print what was built so far: verdicts by package and operator, tasks by split, difficulty."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import quantiles
from typing import Any

from swe_gym_env.paths import home
from swe_gym_env.tasks.pypi.splits import SPLITS

MEASURES = ("lines", "files", "function_lines", "failing_tests", "tests", "distance")


def entries() -> list[dict[str, Any]]:
    """The last verdict on each bug, with its package's name."""
    found: dict[str, dict[str, Any]] = {}
    ledgers = (home() / "tasks" / "pypi").glob("*/ledger.jsonl")
    for path in sorted(ledgers, key=lambda ledger: ledger.stat().st_mtime):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a kill has cut this line
            name = path.parent.name.rpartition("-")[0]
            found[entry["candidate"]] = {**entry, "package": name}
    return list(found.values())


def show() -> None:
    """Print the tables."""
    tried = entries()
    if not tried:
        print(f"nothing built yet in {home()}")
        return
    for title in ("package", "operator"):
        _verdicts(title, Counter((entry[title], entry["verdict"]) for entry in tried))
    measured = [entry["row"] for entry in tried if entry["row"] is not None]
    rows = [row for row in measured if "difficulty" in row["metadata"]]
    _splits(rows)
    _difficulty(rows)


def _verdicts(title: str, counts: Counter[tuple[str, str]]) -> None:
    kinds = sorted({kind for _, kind in counts} - {"valid"})
    print(_columns([title, "tried", "valid", "rate", *kinds]))
    for name in sorted({name for name, _ in counts}):
        tried = sum(count for (key, _), count in counts.items() if key == name)
        valid = counts[name, "valid"]
        others = (counts[name, kind] for kind in kinds)
        print(_columns([name, tried, valid, f"{valid / tried:.0%}", *others]))
    tried, valid = sum(counts.values()), sum(n for (_, k), n in counts.items() if k == "valid")
    print(_columns(["all", tried, valid, f"{valid / tried:.0%}"]) + "\n")


def _splits(rows: Sequence[Mapping[str, Any]]) -> None:
    counts = Counter((row["split"], row["metadata"]["difficulty"]["bugs"]) for row in rows)
    sizes = sorted({size for _, size in counts})
    names = [f"{size} bug" + "s" * (size > 1) for size in sizes]
    print(_columns(["valid, by split", *names, "all"]))
    for split in SPLITS:
        line = [counts[split, size] for size in sizes]
        print(_columns([split, *line, sum(line)]))
    print(_columns(["all", *(sum(counts[s, n] for s in SPLITS) for n in sizes), len(rows)]) + "\n")


def _difficulty(rows: Sequence[Mapping[str, Any]]) -> None:
    print(_columns(["difficulty", "least", "quarter", "half", "3 quarters", "most", "unknown"]))
    for measure in MEASURES:
        values = [row["metadata"]["difficulty"][measure] for row in rows]
        known = [value for value in values if value is not None]
        if known:
            cuts = quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
            shown = (f"{cut:g}" for cut in cuts)
            unknown = len(values) - len(known)
            print(_columns([measure, min(known), *shown, max(known), unknown]))


def _columns(cells: Iterable[object]) -> str:
    first, *rest = map(str, cells)
    return f"{first:22}" + "".join(f"{cell:>11}" for cell in rest)
