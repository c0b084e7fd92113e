"""The expert's choice of a turn: look, undo, edit, test, finish, by what is and what was seen.

It holds no plan. Every turn is decided anew from the sandbox and the visible history, so it is
right in states that it did not lead to, which is what labeling a student's states asks for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from swe_gym_env.errors import PolicyError, SWEGymError
from swe_gym_env.patches import (
    Block,
    FilePatch,
    apply_blocks,
    missing_blocks,
    parse_patch,
    split_lines,
)
from swe_gym_env.policies.base import Reply, State, keyed_rng
from swe_gym_env.policies.expert import wording
from swe_gym_env.policies.expert.edits import Edit, edit_by_content, edit_lines
from swe_gym_env.policies.expert.evidence import History
from swe_gym_env.policies.expert.search import WHOLE, Search
from swe_gym_env.policies.expert.undo import repair
from swe_gym_env.policies.expert.workspace import Probe, gives, probe, read, read_base
from swe_gym_env.policies.submit import settle
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance, ToolCall

TESTS = "python -m pytest -q 2>&1 | tail -1"
SEEN_DIFF = 0.1  # share of episodes' ends that look at the diff once more
OTHER_VIEW = 0.15  # share of views that number the lines
_THREADS = 8
_CACHED = 1024


@dataclass(frozen=True)
class Work:
    """One file of the gold patch as it stands: its lines, and the blocks that it lacks."""

    patch: FilePatch
    present: list[str] | None
    missing: list[Block] | None  # None: damaged


class ExpertPolicy:
    """A teacher that knows the gold patch and needs the sandbox.

    Args:
        tests: Run the visible tests before it finishes. This costs the most, and shows nothing if
            all failing tests are hidden.
        verdict: Go on after a wrong edit, which no student can distinguish from a right one if all
            failing tests are hidden. False: finish after either.
    """

    name = "expert"
    needs_sandbox = True
    needs_answer = True

    def __init__(self, tests: bool = True, verdict: bool = True) -> None:
        self._tests, self._verdict = tests, verdict
        self._bases: dict[tuple[str, str, str], list[str]] = {}

    def act(self, states: Sequence[State]) -> list[Reply]:
        if len(states) < 2:
            return [self._reply(state) for state in states]
        with ThreadPoolExecutor(min(_THREADS, len(states))) as pool:
            return list(pool.map(self._reply, states))

    def submit(self, state: State) -> Future[Reply]:
        """Works in the calling thread: each state has its own sandbox."""
        future: Future[Reply] = Future()
        settle(future, lambda: self._reply(state))
        return future

    def _reply(self, state: State) -> Reply:
        started = perf_counter()
        try:
            if state.sandbox is None:
                raise PolicyError("the expert needs the sandbox of the state, which holds none")
            if not isinstance(state.task, TaskInstance):
                raise PolicyError("the expert needs the gold patch, which the state does not hold")
            action = self._turn(state, state.sandbox, state.task)
        except (SWEGymError, OSError) as error:
            return Reply(error=f"{type(error).__name__}: {error}")
        return Reply(action=action, policy_version=self.name, seconds=perf_counter() - started)

    def _turn(self, state: State, sandbox: Sandbox, task: TaskInstance) -> ToolCall:
        history, rng = History(state), keyed_rng(state.key)
        found = probe(sandbox, task)
        works = [self._work(sandbox, task, p) for p in parse_patch(task.gold_patch).values()]
        step = None
        if self._verdict or not found.changed or any(map(_partly_done, works)):
            step = self._undo(history, found, task, works, rng) or self._change(
                history, sandbox, works, rng
            )
        step = step or self._close(history, task, found, rng)
        if step.name == "bash" and history.away():
            command = f"cd {shlex.quote(task.workdir)} && {step.arguments['command']}"
            return ToolCall("bash", {"command": command}, step.reasoning)
        return step

    def _work(self, sandbox: Sandbox, task: TaskInstance, patch: FilePatch) -> Work:
        text = read(sandbox, task, patch.path)
        present = None if text is None else split_lines(text)
        if patch.creates:
            if present is None:
                return Work(patch, None, list(patch.blocks))
            wanted = apply_blocks([], patch.blocks)
            return Work(patch, present, [] if present == wanted else None)
        if patch.deletes:
            return Work(patch, present, [] if present is None else [Block(0, (), ())])
        if present is None:
            return Work(patch, None, None)
        base = self._base(sandbox, task, patch, present)
        missing = None if base is None else missing_blocks(base, patch.blocks, present)
        return Work(patch, present, missing)

    def _base(
        self, sandbox: Sandbox, task: TaskInstance, patch: FilePatch, present: list[str]
    ) -> list[str] | None:
        key = (task.image, task.base_commit, patch.path)
        if key not in self._bases:
            text = read_base(sandbox, task, patch.path)
            if text is None:  # git history is gone: use an unchanged file
                return present if _fits(present, patch) else None
            if len(self._bases) >= _CACHED:
                self._bases.clear()
            self._bases[key] = split_lines(text)
        return self._bases[key]

    def _undo(
        self,
        history: History,
        found: Probe,
        task: TaskInstance,
        works: list[Work],
        rng: np.random.Generator,
    ) -> ToolCall | None:
        if not found.git:
            return None  # nothing to compare with and nothing to undo from
        sound = {w.patch.path for w in works if w.missing is not None}
        changed = found.changed
        tracked = {p: s for p, s in changed.items() if p not in sound or s == "P"}
        junk = [p for p in found.untracked if p not in sound]
        keep = set(changed) - set(tracked)
        step = repair(history, found, task.base_commit, tracked, junk, bool(keep))
        return wording.bash(rng, *step) if step else None

    def _change(
        self, history: History, sandbox: Sandbox, works: list[Work], rng: np.random.Generator
    ) -> ToolCall | None:
        for work in works:
            if work.missing:
                step = _edit(history, sandbox, work, rng)
                if step:
                    return step
        return None

    def _close(
        self, history: History, task: TaskInstance, found: Probe, rng: np.random.Generator
    ) -> ToolCall:
        command = _test_command(history, task)
        tested = history.last("test") > history.last("write")
        if self._tests and not tested and history.count("test") < 6 and not history.tried(command):
            return wording.bash(rng, "test", command)
        seen = history.diff_since_write() is not None
        if found.git and found.changed and not seen and rng.random() < SEEN_DIFF:
            return wording.bash(rng, "check", "git diff")
        return ToolCall("finish", {}, wording.say(rng, "finish"))


def _partly_done(work: Work) -> bool:
    """At least in part."""
    return work.missing is not None and len(work.missing) < len(work.patch.blocks)


def _test_command(history: History, task: TaskInstance) -> str:
    """The task's own, unless it names folders that the history does not."""
    command = str(task.metadata.get("test_command", ""))
    places = [w for w in shlex.split(command) if not re.match(r"-|python|pytest", w)]
    if not command or not all(place in history.text for place in places):
        return TESTS
    return command if "|" in command else f"{command} 2>&1 | tail -1"


def _fits(present: list[str], patch: FilePatch) -> bool:
    try:
        apply_blocks(present, patch.blocks)
    except ValueError:
        return False
    return True


def _edit(
    history: History, sandbox: Sandbox, work: Work, rng: np.random.Generator
) -> ToolCall | None:
    """The edit if its lines stand in the history, else a look at them."""
    path, present, blocks = work.patch.path, work.present or [], work.missing or []
    if work.patch.deletes:
        return _unless_tried(history, rng, "edit", [f"git rm -qf {shlex.quote(path)}"])
    if work.patch.creates:
        text = "".join(blocks[0].new) if blocks else ""
        command = f"cat > {shlex.quote(path)} <<'EOF'\n{text}EOF"
        return _unless_tried(history, rng, "edit", [command])
    numbered = history.numbered(path)
    needed = _needed(present, blocks)
    unseen = [i for i in needed if present[i].rstrip() not in numbered.get(i + 1, ())]
    raw = history.raw(path) if unseen and history.names(path) else set()
    edits: list[Edit] = []
    if not unseen or all(present[i].rstrip() in raw for i in needed):
        edits = _by_content(history, path, present, blocks)
    if not unseen:
        edits += edit_lines(path, present, blocks)
    wanted = "".join(apply_blocks(present, blocks))
    sound = [e.command for e in edits if not e.script or gives(sandbox, e, path, wanted)]
    step = _unless_tried(history, rng, _kind(blocks), sound)
    if step or not unseen:
        return step

    def view(name: str, first: int, last: int) -> str:
        lines = f"{first},{last}" if first < last else f"{first}"
        if rng.random() < OTHER_VIEW:
            return f"cat -n {shlex.quote(name)} | sed -n '{lines}p'"
        return f"sed -n '{lines}p' {shlex.quote(name)}"

    look = Search(history, sandbox, path, present, unseen[0], view).next()
    return wording.bash(rng, look[1], look[0]) if look else None


def _by_content(history: History, path: str, present: list[str], blocks: list[Block]) -> list[Edit]:
    """Within the fewest lines that the history points at, then anywhere in the file."""
    if len(blocks) != 1:
        return []
    line = blocks[0].start + 1
    spans = [(b - a, a, b) for a, b in history.ranges(path) if a <= line <= b <= a + WHOLE]
    narrow = [(a, b) for _, a, b in sorted(spans)[:1]]
    edits = [edit_by_content(path, present, blocks[0], span) for span in [*narrow, None]]
    return [edit for edit in edits if edit]


def _kind(blocks: list[Block]) -> str:
    lines = [(len(block.old), len(block.new)) for block in blocks]
    return {(0, 1): "insert", (1, 0): "delete"}.get(lines[0], "edit") if len(lines) == 1 else "edit"


def _needed(present: list[str], blocks: list[Block]) -> list[int]:
    """The lines that must have been seen: those that go, or those around an insertion."""
    needed: set[int] = set()
    for block in blocks:
        if block.old:
            needed.update(range(block.start, block.start + len(block.old)))
        else:
            around = [i for i in (block.start - 1, block.start) if 0 <= i < len(present)]
            needed.update([i for i in around if present[i].strip()] or around)
    return sorted(needed)


def _unless_tried(
    history: History,
    rng: np.random.Generator,
    kind: str,
    commands: list[str],
) -> ToolCall | None:
    """The first command that the history does not show to have been without effect."""
    command = next((c for c in commands if not history.tried(c)), None)
    return wording.bash(rng, kind, command) if command else None
