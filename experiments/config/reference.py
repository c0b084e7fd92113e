"""Writes docs/reference/configuration.md from the declarations."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any

from algorithms.schedules import Schedule
from experiments.config.keys import Declared, declared
from experiments.config.schema import RunConfig
from experiments.config.store import METHODS
from experiments.config.values import allowed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"
SHOWN = ("result", "iteration0", "teacher", "evaluation")  # columns would be too many: a list
HEAD = """# Configuration

*For everybody who starts a run: every key, what it means and what it affects. This page is written
by `python -m experiments.config`; the declarations are in `experiments/config/`.*

Keys are given on the command line as `section.key=value`. A group such as `teacher=server` chooses
a file of `conf/teacher/`, which may change the defaults below; so may `model=`, `preset=` and
`experiment=`. `--cfg job` shows the values that a command would use, `--help` all choices. A key
that is not listed here is refused, and so is a value that is not allowed.

**Affects** says what is made again when the value changes: `result` (the run, which gets another
folder), `iteration0` (the warm start that runs share), `teacher` (the model that
`python -m experiments.teacher` trains), `evaluation` (by `python -m experiments.evaluate`), or
`nothing`: how and where the work is done.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## Run\n", "In no section.\n", *_table(_plain(declared(RunConfig)), "", ())]
    for name, known in declared(RunConfig).items():
        if known.key.options:
            continue
        kinds = [*dict.fromkeys(known.key.variants.values())]
        if known.key.fallback and known.key.fallback not in kinds:
            kinds.insert(0, known.key.fallback)
        if not kinds and is_dataclass(known.type):
            kinds = [known.type]  # type: ignore[list-item]
        affects = known.key.affects or ()
        if kinds:
            lines.append(f"\n## {name}\n\n{known.key.doc}.\n")
        for kind in kinds:
            names = [each for each, each_kind in known.key.variants.items() if each_kind is kind]
            if len(kinds) > 1:
                lines.append(f"\n### {_choices(name, names)}\n")
            lines.append(f"{' '.join(inspect.getdoc(kind).split())}\n")  # type: ignore[union-attr]
            lines += _table(declared(kind), f"{name}.", affects)
    lines += ["\n## algorithm\n", "Every option affects the result.\n"]
    for method in METHODS:
        lines += [f"\n### algorithm={method.name}\n", *_options(method, "algorithm.")]
    lines += ["\n## beta\n", "For algorithms that hold the schedule.\n"]
    lines += _options(Schedule, "beta.")
    return "\n".join(lines).rstrip() + "\n"


def _choices(section: str, names: list[str]) -> str:
    return ", ".join(f"{section}={name}" for name in names) if names else f"Every other {section}"


def _plain(keys: Mapping[str, Declared]) -> dict[str, Declared]:
    """Those that are no section."""
    return {
        name: each
        for name, each in keys.items()
        if not (each.key.options or each.key.variants or each.key.fallback)
        and not is_dataclass(each.type)
    }


def _table(keys: Mapping[str, Declared], above: str, affects: tuple[str, ...]) -> list[str]:
    lines = ["| key | default | allowed | meaning | affects |", "|---|---|---|---|---|"]
    return [*lines, *_rows(keys, above, affects, whole=False), ""]


def _rows(
    keys: Mapping[str, Declared], above: str, affects: tuple[str, ...], whole: bool
) -> Iterator[str]:
    for name, known in keys.items():
        key = known.key
        effects = affects if whole or key.affects is None else key.affects
        if is_dataclass(known.type):
            below = declared(known.type)  # type: ignore[arg-type]
            values = known.default
            filled = {
                each: Declared(each, one.type, getattr(values, each, one.default), one.key)
                for each, one in below.items()
            }
            yield from _rows(filled, f"{above}{name}.", effects, whole or key.whole)
            continue
        shown = [each for each in effects if each in SHOWN]
        yield _row(
            f"{above}{name}",
            known.default,
            allowed(known.type, key),
            key.doc,
            ", ".join(shown) or "nothing",
        )


def _row(name: str, default: Any, may_be: str, doc: str, affects: str) -> str:
    shown = "" if default is MISSING else f"`{_yaml(default)}`"
    cells = (f"`{name}`", shown, may_be, doc, affects)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _options(kind: type, above: str) -> list[str]:
    docs = attributes(kind)
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, known in declared(kind).items():
        if name != "name":
            row = _row(
                f"{above}{name}",
                known.default,
                allowed(known.type, known.key),
                docs.get(name, ""),
                "",
            )
            lines.append(row.removesuffix("|  |") + "|")
    return [*lines, ""]


def attributes(kind: type) -> dict[str, str]:
    """What the section ``Attributes:`` of the docstring says of each option."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for line in listed.splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif line.startswith("        ") and found:
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return {name: text.rstrip(".").replace("``", "`") for name, text in found.items()}
