"""A policy with fixed answers: for tests, and as a baseline in experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swe_gym_env.policies.base import Reply, State

Script = Sequence[str | Reply] | Callable[[State], str | Reply]


class ScriptedPolicy:
    """``script``: one text per turn (the last is repeated), or a function of the state."""

    def __init__(self, script: Script, name: str = "scripted", needs_sandbox: bool = False) -> None:
        self.name = name
        self.needs_sandbox = needs_sandbox
        self._script = script

    def act(self, states: Sequence[State]) -> list[Reply]:
        return [self._reply(state) for state in states]

    def _reply(self, state: State) -> Reply:
        if callable(self._script):
            answer = self._script(state)
        else:
            answer = self._script[min(len(state.turns), len(self._script) - 1)]
        return answer if isinstance(answer, Reply) else Reply(text=answer)
