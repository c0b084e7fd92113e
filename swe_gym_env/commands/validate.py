"""Check tasks: the gold change, submitted as an agent would, must resolve them; no change must not.

The gold patch is applied in the agent's sandbox, and the diff that is taken there is graded several
times, each time with the same result. Writes OUT/results.jsonl (one line for each finished task),
OUT/valid.jsonl (the valid tasks, for tasks=jsonl tasks.options.path=OUT/valid.jsonl) and
OUT/report.md. If it is killed or interrupted, the same command continues with the missing tasks. A
task is judged again if its row, the kind of sandbox, the time limit or the code that grades has
changed since, or if it could not be judged.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swe_gym_env.commands import identity, jobs, selection
from swe_gym_env.errors import GradingError, InfraError, SandboxError, SetupError
from swe_gym_env.grading import grade, patches
from swe_gym_env.grading.verdict import opened
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.tasks.walk import Walk, walk
from swe_gym_env.text import shown
from swe_gym_env.types import Outcome, TaskInstance

VERDICTS = {
    "valid": "gold resolves, no change does not",
    "gold_fails": "the gold patch does not resolve",
    "empty_passes": "the tests pass without any change",
    "leaks": "the agent's sandbox holds the fix, the hidden tests or later history",
    "flaky": "runs of the same patch differ",
    "setup_error": "the row, its image and this machine do not fit: correct what the reason says",
    "infra_error": "the sandboxes failed: nothing is known, the next run tries again",
}
AGAIN = ("setup_error", "infra_error")  # not a property of the row: tried again the next time


def add(parser: argparse.ArgumentParser) -> None:
    selection.add_tasks(parser)
    selection.add_sandboxes(parser)
    parser.add_argument(
        "--repeats", type=selection.positive, default=2, metavar="N", help="runs of each; default 2"
    )
    parser.add_argument("--out", type=Path, default=Path("validated"), metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    tasks = selection.load(options)
    sandboxes = selection.provider(options)
    results = jobs.Results(options.out)

    def key(task: TaskInstance) -> str:
        image = identity.of_image(task.image, sandboxes)
        patch = identity.of_patch(task.gold_patch)
        return identity.of_verdict(task, patch, sandboxes.name, options.timeout, image)

    def job(task: TaskInstance) -> jobs.Result:
        return validate(task, sandboxes, options.repeats, options.timeout) | {"key": key(task)}

    missing = [task for task in tasks if not _finished(results.found.get(key(task)), options)]
    jobs.run(missing, job, results, options.workers, lambda result: result["verdict"])
    found = [results.of(key(task), task.instance_id) for task in tasks]
    _write(options.out, tasks, found)
    for verdict, count in Counter(result["verdict"] for result in found).most_common():
        print(f"{count:6}  {verdict:13} {VERDICTS[verdict]}")
    print(f"report: {options.out / 'report.md'}   tasks: {options.out / 'valid.jsonl'}")
    return 0 if any(result["verdict"] == "valid" for result in found) else 1


def validate(
    task: TaskInstance, sandboxes: SandboxProvider, repeats: int, timeout: float
) -> dict[str, Any]:
    """The result of one task, as stored in results.jsonl. It stops at the first fault."""
    started = time.monotonic()
    runs: dict[str, list[Outcome]] = {"gold": [], "empty": []}
    twins: dict[str, Sequence[str]] = {}
    walked: Walk | None = None
    try:
        walked = walk(task, sandboxes)
        verdict, reason = _seen(walked)
        if not verdict:
            _grade(task, walked, sandboxes, repeats, timeout, runs, twins)
            verdict, reason = _judge(walked, runs)
    except SetupError as error:
        verdict, reason = "setup_error", str(error)
    except InfraError as error:
        verdict = "setup_error" if isinstance(error, GradingError) else "infra_error"
        reason = f"{error.cause}: {error}"
    return {
        "instance_id": task.instance_id,
        "verdict": verdict,
        "reason": shown(reason),
        "repeats": repeats,
        "statuses": {kind: [one.status for one in found] for kind, found in runs.items()},
        "already_passing": _already(task, runs["empty"]),
        "flaky_tests": sorted({test for found in runs.values() for test in _differ(found)}),
        "without_twin": _without_twin(task, twins),
        "left_out": list(walked.missing) if walked else [],
        "differs_from_base": sorted(patches.named(walked.nothing)) if walked else [],
        "seconds": round(time.monotonic() - started, 2),
    }


def _seen(walked: Walk) -> tuple[str, str]:
    """Status and reason if the walk alone decides; both empty if the tests must run."""
    if walked.leak:
        return "leaks", walked.leak
    if walked.refused:
        return "gold_fails", f"not applied in the agent's sandbox: {walked.refused}"
    if not walked.gold.strip():
        return "gold_fails", f"the agent's diff is empty after it{_left_out(walked)}"
    return "", ""


def _left_out(walked: Walk) -> str:
    few = ", ".join(walked.missing[:3])
    return f"; what an agent changes in {few} is not in its diff (ignored by git?)" if few else ""


def _grade(
    task: TaskInstance,
    walked: Walk,
    sandboxes: SandboxProvider,
    repeats: int,
    timeout: float,
    runs: Mapping[str, list[Outcome]],
    twins: dict[str, Sequence[str]],
) -> None:
    """Grade ``repeats`` times, append the outcomes to ``runs``, and note what became of twins.

    Twins run with the first gold patch only: a change that is none cannot be a cheat.

    Raises:
        SetupError: Only the user can correct the cause.
        InfraError: An outcome was masked.
    """
    for repeat in range(repeats):
        for kind, patch in {"gold": walked.gold, "empty": walked.nothing}.items():
            one = grade(
                task,
                patch,
                sandboxes,
                timeout=timeout,
                allow_empty=True,
                counterfactual=kind == "gold" and repeat == 0,
                on_log=lambda *log: twins.update(opened(*log)[1].twins),
            )
            runs[kind].append(one)
            if one.mask:
                cause, _, message = one.reason.partition(": ")
                raise (GradingError if cause == GradingError.cause else SandboxError)(message)


def _judge(walked: Walk, runs: Mapping[str, Sequence[Outcome]]) -> tuple[str, str]:
    for kind, found in runs.items():
        if unlike := next((one for one in found if one.status != found[0].status), None):
            return "flaky", f"{kind}: {found[0].status}, then {unlike.status} ({unlike.reason})"
        if tests := _differ(found):
            return "flaky", f"{kind}: {tests[0]} and {len(tests) - 1} more differ between runs"
    gold = runs["gold"][0]
    if not gold.resolved:
        return "gold_fails", f"{gold.status}: {gold.reason}{_left_out(walked)}"
    if runs["empty"][0].resolved:
        return "empty_passes", "all tests pass without a change"
    return "valid", ""


def _without_twin(task: TaskInstance, twins: Mapping[str, Sequence[str]]) -> list[str]:
    """Tests of FAIL_TO_PASS for which no twin fails with the gold patch: nothing checks them."""
    failing = set(twins.get("made", ())) - set(twins.get("passed", ()))
    return [test for test in task.fail_to_pass if twins and test not in failing]


def _already(task: TaskInstance, empty: Sequence[Outcome]) -> list[str]:
    """Tests of FAIL_TO_PASS that pass without a change: harmless, but they check nothing."""
    return [t for t in task.fail_to_pass if any(one.tests.get(t) == "PASSED" for one in empty)]


def _differ(found: Sequence[Outcome]) -> list[str]:
    names = {test for one in found for test in one.tests}
    return sorted(test for test in names if len({one.tests.get(test) for one in found}) > 1)


def _finished(result: Mapping[str, Any] | None, options: argparse.Namespace) -> bool:
    if result is None or result["verdict"] in AGAIN:
        return False
    return result["repeats"] >= options.repeats


def _write(folder: Path, tasks: Sequence[TaskInstance], found: Sequence[jobs.Result]) -> None:
    from swe_gym_env.tasks.jsonl import save

    good = [one for one, result in zip(tasks, found, strict=True) if result["verdict"] == "valid"]
    save(good, folder / "valid.jsonl")
    counts = Counter(result["verdict"] for result in found)
    lines = [
        f"# {len(good)} of {len(tasks)} tasks are valid",
        "",
        "| tasks | verdict | |",
        "|--|--|--|",
    ]
    lines += [f"| {count} | {name} | {VERDICTS[name]} |" for name, count in counts.most_common()]
    bad = [result for result in found if result["verdict"] != "valid"]
    if bad:
        lines += ["", "| task | verdict | why |", "|---|---|---|"]
        lines += [f"| {r['instance_id']} | {r['verdict']} | {_cell(r['reason'])} |" for r in bad]
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300]
