"""A policy: one command, then finish. Used as the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swe_gym_env.policies.base import Reply, State
from swe_gym_env.types import ToolCall


@dataclass(frozen=True)
class OneCommand:
    command: str
    name: str = "one_command"
    needs_sandbox: bool = False

    def act(self, states: Sequence[State]) -> list[Reply]:
        fix = ToolCall("bash", {"command": self.command})
        return [
            Reply(action=ToolCall("finish") if any(t.action == fix for t in s.turns) else fix)
            for s in states
        ]
