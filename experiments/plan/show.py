"""The plan as tables on the terminal and as a picture of how long the run takes on 1 to 64 GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.console.progress import Display
from experiments.pipeline import precision
from experiments.pipeline.preflight import gpu_gigabytes
from experiments.plan import memory
from experiments.plan.hardware import measured_with
from experiments.plan.known import Facts
from experiments.plan.phases import Phase, Planner
from experiments.plan.shapes import BF16
from experiments.report.charts import curve
from experiments.report.contact_sheet import contact_sheet
from experiments.results.tables import Curve
from experiments.results.tables import Table as Data
from swe_gym_env.errors import SetupError

COUNTS = (1, 2, 4, 8, 16, 32, 64)
WORDS = ("how", "mostly")  # columns of words


def plan(cfg: DictConfig, display: Display) -> None:
    """Prints the plan; with ``plan.calibrate`` measures this machine instead. SetupError, at once,
    where the run cannot fit."""
    console = display.console
    precision.check(cfg)
    if cfg.plan.calibrate:
        from experiments.plan.calibrate import calibrate

        calibrate(cfg, display)
        return
    gpus = cfg.cluster.gpus if cfg.cluster.gpus is not None else len(gpu_gigabytes())
    facts = Facts.of(cfg.plan.run)
    memory.check(cfg, gpus)
    planner = Planner(cfg, gpus, facts)
    phases = planner.run()
    where = f"{gpus} x {cfg.cluster.gpu}" if gpus else "this CPU"
    console.print(f"algorithm={cfg.algorithm.name} model={cfg.model.name} on {where}", style="bold")
    if gpus:
        placed(console, planner)
        memory_table(console, memory.uses(cfg, gpus))
    phase_table(console, phases)
    token_table(console, phases)
    teacher_cost(console, planner, phases)
    disk(console, planner)
    if not gpus:
        console.print(measured_with(cfg))
    if cfg.model.requires.gpus or gpus:
        points = scaling(cfg, gpus, facts, phases)
        scaling_table(console, cfg, points)
        file = Path(cfg.paths.runs) / f"plan-{cfg.algorithm.name}-{cfg.model.name}.svg"
        picture(file, points, f"{cfg.algorithm.name}, {cfg.model.name}: hours over GPUs")
        console.print(f"plot: {file}")


def _table(
    console: Console, title: str, names: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for place, name in enumerate(names):
        words = place == 0 or name in WORDS
        table.add_column(name, justify="left" if words else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def placed(console: Console, planner: Planner) -> None:
    place, cfg = planner.place, planner.cfg
    rows = [["student", str(place.student), "training sharded (FSDP2); then one server on each"]]
    if place.teachers:
        how = f"{place.teachers} server(s) of tensor parallel {place.teacher_tp}"
        rows.append(["teacher", str(place.teachers * place.teacher_tp), how])
    else:
        rows.append(["teacher", "0", f"teacher={cfg.teacher.name}: uses no separate GPUs"])
    nodes = math.ceil(place.gpus / cfg.plan.node.gpus)
    _table(console, f"GPU placement, {nodes} node(s)", ["who", "GPUs", "how"], rows)


def memory_table(console: Console, uses: Sequence[memory.Use]) -> None:
    parts = list(dict.fromkeys(part for use in uses for part in use.parts))
    rows = [[part, *(_gib(use.parts.get(part)) for use in uses)] for part in parts]
    rows.append(["all", *(_gib(use.total) for use in uses)])
    rows.append(["may be used", *(_gib(use.room) for use in uses)])
    _table(console, "Memory of each GPU, GiB", ["part", *(use.what for use in uses)], rows)


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / memory.GIB:.1f}"


def phase_table(console: Console, phases: Sequence[Phase]) -> None:
    rows = [
        [
            phase.name,
            duration(phase.seconds),
            f"{phase.bound} {phase.bounds[phase.bound] / max(phase.seconds, 1e-9):.0%}",
            _count(phase.episodes),
            _count(phase.turns),
        ]
        for phase in phases
    ]
    whole = sum(phase.seconds for phase in phases)
    rows.append(["all", duration(whole), "", "", ""])
    _table(console, "Phases", ["phase", "wall", "mostly", "episodes", "turns"], rows)


def token_table(console: Console, phases: Sequence[Phase]) -> None:
    rows = [
        [
            phase.name,
            _count(phase.student.generated),
            _count(phase.teacher.generated),
            _hits(phase),
            _count(phase.trained),
        ]
        for phase in phases
    ]
    title = "Tokens (student, teacher: generated; cached: of all prompts)"
    names = ["phase", "student", "teacher", "cached", "trained"]
    _table(console, title, names, [row for row in rows if any(row[1:])])


def _hits(phase: Phase) -> str:
    prompt = phase.student.prompt + phase.teacher.prompt
    computed = phase.student.computed + phase.teacher.computed
    return f"{1 - computed / prompt:.0%}" if prompt else ""


def teacher_cost(console: Console, planner: Planner, phases: Sequence[Phase]) -> None:
    cfg, place = planner.cfg, planner.place
    prompt = sum(phase.teacher.prompt for phase in phases)
    computed = sum(phase.teacher.computed for phase in phases)
    generated = sum(phase.teacher.generated for phase in phases)
    scored = sum(phase.scored for phase in phases)
    busy = sum(phase.teacher.prefill + phase.teacher.decode for phase in phases) / 3600
    hours = sum(phase.seconds for phase in phases) / 3600
    mine = place.teachers * place.teacher_tp
    prices = [cfg.teacher.prices[name] for name in ("prompt", "generated", "scored")]
    tokens = (prompt, generated, scored)
    known = all(price is not None for price, many in zip(prices, tokens, strict=True) if many)
    money = sum((price or 0) * many / 1e6 for price, many in zip(prices, tokens, strict=True))
    rows = [
        ["prompt tokens", _count(prompt) or "0"],
        ["of them not in the prefix cache", _count(computed) or "0"],
        ["generated tokens", _count(generated) or "0"],
        ["scored tokens", _count(scored) or "0"],
        ["money, by teacher.prices", f"{money:,.2f}" if known else "teacher.prices are not given"],
        ["GPU hours busy", f"{busy * place.teacher_tp:.1f}" if mine else "none of ours"],
        ["GPU hours reserved", f"{hours * mine:.1f}" if mine else "none of ours"],
    ]
    if place.gpus:
        price = cfg.plan.gpu.hour
        cost = f", at {price} an hour {hours * place.gpus * price:,.0f}" if price else ""
        rows.append(["GPU hours of the whole run", f"{hours * place.gpus:.0f}{cost}"])
    _table(console, f"Teacher ({cfg.teacher.name})", ["what", "how much"], rows)


def disk(console: Console, planner: Planner) -> None:
    cfg = planner.cfg
    weights = planner.model.parameters * BF16 / 1e9
    images = planner.images_gb()
    rows = [
        [f"images of {planner.tasks()} tasks", f"{images:.1f}"],
        [f"{cfg.rounds + 1} checkpoints of {weights:.1f}", f"{(cfg.rounds + 1) * weights:.1f}"],
        ["all", f"{images + (cfg.rounds + 1) * weights:.1f}"],
    ]
    _table(console, "Disk, GB", ["what", "GB"], rows)


@dataclass(frozen=True)
class Scaled:
    """The run on so many GPUs: hours as configured, and with the ``concurrency`` that is the best
    of a few; ``missing`` says why it does not fit."""

    gpus: int
    hours: float = 0.0
    best: float = 0.0
    concurrency: int = 0
    bound: str = ""
    missing: str = ""


def scaling(cfg: DictConfig, gpus: int, facts: Facts, phases: Sequence[Phase]) -> list[Scaled]:
    found = []
    for count in COUNTS:
        if missing := memory.too_large(cfg, count):
            found.append(Scaled(count, missing=missing[0]))
            continue
        planned = phases if count == gpus else Planner(cfg, count, facts).run(quick=True)
        hours = sum(phase.seconds for phase in planned) / 3600
        best, best_many = hours, cfg.workers.concurrency
        for many in _in_flight(cfg, count):
            changes = [f"workers.concurrency={many}"]
            if cfg.teacher.get("concurrency") and many > cfg.workers.concurrency:
                changes.append(f"teacher.concurrency={cfg.teacher.concurrency * many}")
            other = Planner(memory.changed(cfg, changes), count, facts).run(quick=True)
            taken = sum(phase.seconds for phase in other) / 3600
            if taken < best:
                best, best_many = taken, many
        parts: dict[str, float] = {}
        for phase in planned:
            for name, seconds in phase.bounds.items():
                parts[name] = parts.get(name, 0.0) + seconds
        bound = max(parts, key=lambda name: parts[name])
        found.append(Scaled(count, hours, best, best_many, bound))
    return found


def _in_flight(cfg: DictConfig, gpus: int) -> set[int]:
    """Other numbers of episodes in flight to try: fewer, of which the servers' caches hold all, and
    as many more as there are more GPUs."""
    now = cfg.workers.concurrency
    return {max(1, now // 4), now * max(1, gpus // cfg.plan.node.gpus)} - {now}


def scaling_table(console: Console, cfg: DictConfig, points: Sequence[Scaled]) -> None:
    price = cfg.plan.gpu.hour or 0.0
    rows = []
    for one in points:
        if one.missing:
            rows.append([str(one.gpus), "does not fit", "", "", ""])
            continue
        cost = f"{min(one.hours, one.best) * one.gpus * price:,.0f}" if price else ""
        best = f"{duration(one.best * 3600)} ({one.concurrency})"
        rows.append([str(one.gpus), duration(one.hours * 3600), one.bound, best, cost])
    names = ["GPUs", "wall", "mostly", "best in flight", "cost of the better"]
    _table(console, f"The same on 1 to 64 x {cfg.cluster.gpu}", names, rows)
    for one in points:
        if one.missing:
            console.print(f"  {one.gpus}: {one.missing}")


def picture(file: Path, points: Sequence[Scaled], title: str) -> None:
    """One SVG file that needs nothing else."""
    fits = [point for point in points if not point.missing]
    if not fits:
        raise SetupError("this run fits on none of 1 to 64 GPUs")

    rows = [
        (p.gpus, how, hours)
        for p in fits
        for how, hours in (("as configured", p.hours), ("best number in flight", p.best))
    ]
    drawn = Curve("GPUs", "hours", by="how")
    table = Data("scaling", title, ("GPUs", "how", "hours"), rows, curve=drawn)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(contact_sheet("", [("", [(title, curve(table, width=480))])]) + "\n")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:.0f}" if number else ""
