"""Why an episode failed: exactly one kind for each, by rules.

A patch is scored however the episode ended, so what it says goes first, and how the episode ended
counts where nothing was changed. The first rule that holds decides:

    resolved
    tampered          the verdict says so
  nothing was changed:
    format errors     too many malformed turns in a row
    loop              the same action too often in a row
    never submits     the limit of turns
    out of budget     the limit of tokens or seconds, or the model's context is full
    gave up           it finished
  something was changed:
    wrong file        the patch names no file that the gold patch names
    broken syntax     a file of both patches no longer parses as Python
    no test ran       no hidden test reported a result: as a rule the code cannot be imported
    tests hang        the hidden tests ran into their time limit
    near miss         all tests that had to begin to pass do, and others broke
    near miss         a change within NEAR lines of one of the gold patch's
    wrong place       the right file, and no change near
    wrong patch       these cannot be distinguished without the task's gold patch
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from experiments.analysis import syntax
from experiments.analysis.measure import Measure, NotMeasured, Row
from experiments.analysis.syntax import Source
from experiments.results.statistics import share
from experiments.results.tables import Table
from experiments.runs.reader import StoredRun
from swe_gym_env.grading.patches import named
from swe_gym_env.grading.verdict import PASSED
from swe_gym_env.patches import Block, FilePatch, parse_patch
from swe_gym_env.types import Episode, TaskInstance

NEAR = 3  # lines, as many as a diff shows around a change
UNCHANGED = {"max_format_errors": "format errors", "max_repeats": "loop"}
UNCHANGED |= {"max_turns": "never submits", "finished": "gave up"}
KINDS = (
    *("resolved", "near miss", "wrong place", "wrong file", "wrong patch", "broken syntax"),
    *("no test ran", "tests hang", "gave up", "loop", "never submits", "out of budget"),
    *("format errors", "tampered"),
)


def kind_of(episode: Episode, task: TaskInstance | None, source: Source | None = None) -> str:
    """``task`` None: it cannot be had. ``source`` reads its files as they were at the start."""
    outcome = episode.outcome
    if outcome.resolved or outcome.status == "tampered":
        return outcome.status
    if not episode.patch.strip() or outcome.status == "empty_patch":
        return UNCHANGED.get(episode.stop_reason, "out of budget")
    gold = parse_patch(task.gold_patch) if task is not None else {}
    if gold and not named(episode.patch) & gold.keys():
        return "wrong file"
    if source is not None and _unparsable(episode.patch, gold, source):
        return "broken syntax"
    if outcome.status == "timeout":
        return "tests hang"
    if not any(status != "ABSENT" for status in outcome.tests.values()):
        return "no test ran"
    if _only_others_broke(episode, task):
        return "near miss"
    if not gold:
        return "wrong patch"
    return "near miss" if _near(parse_patch(episode.patch), gold) else "wrong place"


def _unparsable(patch: str, gold: dict[str, FilePatch], source: Source) -> bool:
    """A deleted file is no matter of syntax; nor is one whose earlier text is not available."""
    changed = {path: change for path, change in parse_patch(patch).items() if path in gold}
    whole = [p for p, change in changed.items() if not change.deletes and p.endswith(".py")]
    before = tuple((path, text) for path in whole if (text := source(path)) is not None)
    return bool(syntax.broken(patch, before))


def _only_others_broke(episode: Episode, task: TaskInstance | None) -> bool:
    """By the statuses where the task says which tests matter, else by the grader's own words."""
    tests = episode.outcome.tests
    if task is not None and task.fail_to_pass:
        return all(tests.get(test) in PASSED for test in task.fail_to_pass)
    why = episode.outcome.reason
    return bool(re.search(r"\d+ tests that passed are broken", why)) and "still fail" not in why


def _near(patch: dict[str, FilePatch], gold: dict[str, FilePatch]) -> bool:
    """Line numbers of both are those of the base commit."""
    return any(
        _apart(one, other) <= NEAR
        for path, change in patch.items()
        if path in gold
        for one in change.blocks
        for other in gold[path].blocks
    )


def _apart(one: Block, other: Block) -> int:
    """Lines between two blocks; 0 where they touch or overlap."""
    first, second = sorted((one, other), key=lambda block: block.start)
    return max(0, second.start - (first.start + len(first.old)))


def _counted(run: StoredRun) -> Iterable[tuple[str, int | None, Sequence[tuple[str, str]]]]:
    """Of each set, every episode's kind and how it ended."""
    if not run.sets:
        raise NotMeasured("no episodes")
    for played in run.sets:
        found = []
        for episode in played.valid:
            task = run.tasks.get(episode.instance_id)
            source = None if task is None else syntax.source_of(task)
            found.append((kind_of(episode, task, source), episode.stop_reason))
        yield played.name, played.round, found


def by_kind(run: StoredRun) -> Iterable[Row]:
    for name, number, found in _counted(run):
        counts = Counter(kind for kind, _ in found)
        for kind in KINDS:
            if counts[kind]:
                interval = share(counts[kind], len(found))
                yield (name, number, kind, counts[kind], len(found), *interval)


def by_ending(run: StoredRun) -> Iterable[Row]:
    for name, _, found in _counted(run):
        counts = Counter(found)
        for kind, stop in sorted(counts, key=lambda one: (KINDS.index(one[0]), one[1])):
            yield (name, kind, stop, counts[kind, stop])


BY_KIND = Measure(
    Table(
        "failures",
        "How episodes ended, each counted as one kind",
        ("set", "round", "kind", "episodes", "of", "share", "low", "high"),
        (),
        "The first rule that holds decides (docs/reference/analysis.md lists them in order): what "
        "was changed goes first, how the episode ended counts where nothing was. Wilson intervals.",
        ("share", "low", "high"),
    ),
    by_kind,
)
BY_ENDING = Measure(
    Table(
        "failures_by_ending",
        "Kinds of failure by why the episode was over",
        ("set", "kind", "ending", "episodes"),
        (),
    ),
    by_ending,
)
