"""How far the whole run is: which phase of how many, the time spent, and what is left of it.

The remaining time is shown where it is known. Each phase to come is assumed to take as long as the
newest of its kind. Iteration 0 has another size than the rounds, so that a first round must have
ended before; and a kind of phase that has not ended yet makes it unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from algorithms.base import Algorithm
from experiments.console.progress import time_of
from experiments.runs.layout import ITERATION0, UNTRAINED, round_name


def phases(cfg: DictConfig, iteration0: Algorithm, algorithm: Algorithm) -> list[str]:
    """Of a run, by the names that they have in phases.json."""
    rounds, names = cfg.rounds, ["tasks"]
    if cfg.evaluation.get("untrained", True):
        names.append(f"evaluate {UNTRAINED}")
    for index in range(rounds + 1):
        name = round_name(index)
        scored = (algorithm if index else iteration0).scoring
        names += [f"collect {name}", *([f"score {name}"] if scored else []), f"train {name}"]
        if index == 0:
            names.append(f"evaluate {ITERATION0}")
        elif cfg.evaluation.every_round or index == rounds:
            names.append(f"evaluate {name}")
    return names


def line(names: Sequence[str], ended: Sequence[str], seconds: Mapping[str, float]) -> str:
    """``ended``: those of ``names`` that have, the newest last. ``seconds`` as in phases.json."""
    text = f"phase {len(ended)} of {len(names)} done, {time_of(sum(seconds.values()))} so far"
    left = seconds_left(names, ended, seconds)
    return f"{text}, about {time_of(left)} left" if left else text


def seconds_left(
    names: Sequence[str], ended: Sequence[str], seconds: Mapping[str, float]
) -> float | None:
    """None where it cannot be known."""
    known = {}
    for name in ended:
        kind, what = name.split()[0], name.split()[-1]
        if what not in (UNTRAINED, round_name(0)):  # it babbles; and of another size
            known[kind] = seconds[name]
    kinds = [name.split()[0] for name in names if name not in ended]
    return sum(known[kind] for kind in kinds) if set(kinds) <= known.keys() else None
