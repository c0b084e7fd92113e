"""What an evaluation amounts to: rates with intervals, pass@k, and how the episodes went.

With one greedy episode for each task intervals are Wilson's. With several samples a task's episodes
are alike, so intervals come from drawing the tasks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.results import metrics
from experiments.results.statistics import Interval, bootstrap_mean, pass_at_k_rate, rate
from experiments.results.tables import Cell, Table
from swe_gym_env.policies.budget import Prices, Spent
from swe_gym_env.types import Episode, TaskInstance

SHARES = ("rate", "low", "high")
# As the annotators of SWE-bench Verified wrote it
SWEBENCH = ("<15 min fix", "15 min - 1 hour", "1-4 hours", ">4 hours")


def measure(
    episodes: Sequence[Episode],
    tasks: Iterable[TaskInstance],
    spent: Spent = Spent(),  # noqa: B008
    prices: Prices = Prices(),  # noqa: B008
) -> dict[str, Any]:
    """For metrics.json. ``spent`` is what an endpoint or the expert was asked, of ``prices``.

    ``resolved`` of ``n`` counts episodes without an infrastructure error. ``rate`` is of these, or
    with several samples the mean of the tasks' own rates; ``low`` and ``high`` are its interval.
    ``pass_at`` has pass@k for k = 1, 2, 4, ... and all samples.
    """
    about = {task.instance_id: task for task in tasks}
    valid = [episode for episode in episodes if not episode.outcome.mask]
    counted = metrics.of_episodes(episodes)
    counts = list(_counts(valid).values())
    return {
        **counted,
        **_resolved(valid),
        "tasks": len(about),
        "pass_at": {str(k): asdict(found) for k, found in _pass_at(counts).items()},
        "submission_rate": metrics.submission_rate(valid) or 0.0,
        "empty_patch_rate": counted["empty_patches"] / len(valid) if valid else 0.0,
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens or None,
        "generated_tokens": spent.generated_tokens or counted["sampled_tokens"],
        "cost": prices.cost(spent),
        "by_repository": _by(valid, lambda e: about[e.instance_id].repo),
        "by_difficulty": _by(valid, lambda e: difficulty(about[e.instance_id])),
    }


def difficulty(task: TaskInstance) -> str:
    """As the task set says it: minutes that a developer would need, or, for bugs put into packages,
    how many calls lie between a failing test and the bug."""
    known = task.metadata.get("difficulty")
    if not isinstance(known, Mapping):
        return str(known or "unknown")
    if known.get("bugs", 1) > 1:
        return f"{known['bugs']} bugs"
    calls = known.get("distance")
    if calls is None:
        return "bug runs at import"
    return f"bug {calls} call{'s' if calls > 1 else ''} away" if calls < 4 else "bug 4 or more away"


def _counts(episodes: Iterable[Episode]) -> dict[str, tuple[int, int]]:
    """(n, c) of each task: its samples, and those that resolved it."""
    found: dict[str, tuple[int, int]] = {}
    for episode in episodes:
        n, c = found.get(episode.instance_id, (0, 0))
        found[episode.instance_id] = (n + 1, c + episode.outcome.resolved)
    return found


def _resolved(valid: Sequence[Episode]) -> dict[str, Any]:
    counts = _counts(valid)
    resolved, n = sum(c for _, c in counts.values()), len(valid)
    one = rate(resolved, n)
    found = {"rate": one.rate, "low": one.low, "high": one.high}
    if n > len(counts):
        drawn = bootstrap_mean([c / n for n, c in counts.values()])
        found = {"rate": drawn.mean, "low": drawn.low, "high": drawn.high}
    return {"resolved": resolved, "n": n, **found}


def _pass_at(counts: Sequence[tuple[int, int]]) -> dict[int, Interval]:
    most = max((n for n, _ in counts), default=1)
    if most == 1:
        return {}
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return {k: pass_at_k_rate(counts, k) for k in [*powers, most]}


def _by(valid: Sequence[Episode], key: Callable[[Episode], str]) -> list[dict[str, Any]]:
    groups: dict[str, list[Episode]] = {}
    for episode in valid:
        groups.setdefault(key(episode), []).append(episode)
    names = sorted(
        groups, key=lambda name: (SWEBENCH.index(name) if name in SWEBENCH else -1, name)
    )
    return [
        {"group": name, "tasks": len(_counts(groups[name])), **_resolved(groups[name])}
        for name in names
    ]


def tables(measured: Mapping[str, Any]) -> list[Table]:
    """The closing table, then by repository and by difficulty, of what :func:`measure` found."""
    what: list[tuple[str, Cell]] = [(name, measured[name]) for name in ("tasks", "resolved", "n")]
    what += [(name, measured[name]) for name in SHARES]
    for k, found in measured["pass_at"].items():
        what += [(f"pass@{k}", found["mean"])]
        what += [(f"pass@{k} {end}", found[end]) for end in ("low", "high")]
    shares = [*SHARES, *(name for name, _ in what if name.startswith("pass@"))]
    for name, key in (
        ("submitted", "submission_rate"),
        ("empty patch", "empty_patch_rate"),
        ("bad format", "format_error_rate"),
    ):
        what.append((name, measured[key]))
        shares.append(name)
    what += [
        ("turns", measured["mean_turns"]),
        ("tokens", measured["mean_tokens"]),
        ("seconds", measured["mean_seconds"]),
        ("prompt tokens", measured["prompt_tokens"]),
        ("generated tokens", measured["generated_tokens"]),
        ("cost", measured["cost"]),
        ("faults", measured["infra_errors"]),
    ]
    closing = Table(
        "evaluation",
        "Evaluation",
        [name for name, _ in what],
        [[value for _, value in what]],
        "turns, tokens of the history, seconds: mean of an episode; prompt and generated tokens, "
        "cost: of all; episodes that infrastructure errors ended count nowhere",
        shares,
    )
    return [
        closing,
        _grouped("repositories", "By repository", "repository", measured["by_repository"]),
        _grouped("difficulty", "By difficulty", "difficulty", measured["by_difficulty"]),
    ]


def _grouped(name: str, title: str, first: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["tasks", "resolved", "n", *SHARES]
    cells = [[row["group"], *(row[column] for column in columns)] for row in rows]
    return Table(name, title, [first, *columns], cells, "95 % intervals", SHARES)


def of_tasks(episodes: Sequence[Episode], tasks: Iterable[TaskInstance]) -> Table:
    """Every episode, faults too."""
    about = {task.instance_id: task for task in tasks}
    rows: list[list[Cell]] = [
        [
            episode.instance_id,
            about[episode.instance_id].repo,
            difficulty(about[episode.instance_id]),
            episode.repeat + 1,
            episode.outcome.status,
            episode.stop_reason,
            len(episode.turns),
            episode.metadata.get("tokens"),
            round(episode.seconds, 1),
        ]
        for episode in episodes
    ]
    columns = [
        "task",
        "repository",
        "difficulty",
        "sample",
        "outcome",
        "stopped",
        "turns",
        "tokens",
        "seconds",
    ]
    return Table("tasks", "Every episode", columns, rows)
