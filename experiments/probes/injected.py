"""A mistake injected at one turn: what it is, who makes it, and who acts before and after it.

To the roll-out it is a teacher that says something wrong, once; the student does not know that the
turn was not its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from swe_gym_env.patches import Block, parse_patch
from swe_gym_env.policies.base import Key, Policy, Reply, State, shown
from swe_gym_env.types import Actor, TaskInstance, TaskView, ToolCall


def place(task: TaskInstance) -> tuple[str, Block] | None:
    """The first change that the gold patch makes to a file that is there; None if there is none."""
    for path, change in parse_patch(task.gold_patch).items():
        if change.blocks and not (change.creates or change.deletes):
            return path, change.blocks[0]
    return None


def wrong_edit(path: str, block: Block) -> ToolCall:
    """Deletes the faulty lines, or the line before which one is missing."""
    first = block.start + 1 if block.old else max(1, block.start)
    last = max(first, block.start + len(block.old))
    lines = f"{first}" if first == last else f"{first},{last}"
    return _bash(f"sed -i '{lines}d' {shlex.quote(path)}", "Remove this line.")


def missed_edit(path: str, block: Block) -> ToolCall:
    """Puts a word of the first faulty line in its own place and shows the line: nothing changed."""
    line = block.start + 1 if block.old else max(1, block.start)
    word = re.search(r"\w+", block.old[0]) if block.old else None
    same = f"{word[0]}/{word[0]}" if word else "^/"
    command = f"sed -i '{line}s/{same}/w /dev/stdout' {shlex.quote(path)}"
    return _bash(command, "Fix this line.")


def wrong_look(path: str, block: Block) -> ToolCall:
    """Looks at the head of the file instead of at the fault. Changes nothing."""
    return _bash(f"sed -n '1,3p' {shlex.quote(path)}", "Look at the code.")


def _bash(command: str, reasoning: str) -> ToolCall:
    return ToolCall("bash", {"command": command}, reasoning)


MISTAKES: dict[str, Callable[[str, Block], ToolCall]] = {
    "missed_edit": missed_edit,
    "wrong_edit": wrong_edit,
    "wrong_look": wrong_look,
}


@dataclass(frozen=True)
class HandOver:
    """``lead`` takes the turns before ``turn``, the student all others; where it is ``injected``,
    turn ``turn`` itself is the teacher's."""

    turn: int
    lead: Actor
    injected: bool

    def actor(self, key: Key) -> Actor:
        if key[4] == self.turn and self.injected:
            return "teacher"
        return self.lead if key[4] < self.turn else "student"


class WithMistake:
    """Makes the mistake called ``mistake`` at turn ``turn`` and leaves other turns to ``lead``."""

    def __init__(self, mistake: str, turn: int, lead: Policy | None) -> None:
        self.name = f"{mistake} at turn {turn}"
        self.needs_sandbox = lead is not None and lead.needs_sandbox
        self.needs_answer = True  # the mistake is made where the gold patch changes something
        self._say, self._turn, self._lead = MISTAKES[mistake], turn, lead

    def act(self, states: Sequence[State]) -> list[Reply]:
        now = [state for state in states if len(state.turns) == self._turn]
        others = [state for state in states if len(state.turns) != self._turn]
        replies_of = {id(state): self._reply(state.task) for state in now}
        if others:
            assert self._lead is not None
            led = self._lead.act([_seen_by(self._lead, state) for state in others])
            replies_of |= {id(state): reply for state, reply in zip(others, led, strict=True)}
        return [replies_of[id(state)] for state in states]

    def _reply(self, task: TaskView | TaskInstance) -> Reply:
        found = place(task) if isinstance(task, TaskInstance) else None
        if found is None:
            return Reply(error="the gold patch changes no file that is there")
        return Reply(action=self._say(*found), policy_version=self.name)


def _seen_by(policy: Policy, state: State) -> State:
    """The state without the gold patch, unless ``policy``, too, needs it."""
    if isinstance(state.task, TaskInstance):
        return replace(state, task=shown(state.task, policy))
    return state
