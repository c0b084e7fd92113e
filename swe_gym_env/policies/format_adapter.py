"""A teacher with another action format than the student: its prompt describes that format, and its
turns are parsed in it. So a model can teach in the format that it was trained on.

The history is rendered again in that format, from the executed calls; token ids of the student are
left out, since they mean nothing to another tokenizer. What comes back is a canonical call, which
the roll-out renders for the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property

from swe_gym_env import prompts
from swe_gym_env.actions import ActionFormat, FormatError, read
from swe_gym_env.policies.base import Key, Policy, Reply, State, needs_answer
from swe_gym_env.policies.submit import Submitting, release, submitting, then
from swe_gym_env.types import Turn


class FormatAdapter:
    """``policy`` asked and understood in ``action_format``. Text that holds no call is an error."""

    def __init__(self, policy: Policy, action_format: ActionFormat) -> None:
        self.policy, self.action_format = policy, action_format
        self.name, self.needs_sandbox = policy.name, policy.needs_sandbox
        self.needs_answer = needs_answer(policy)

    def act(self, states: Sequence[State]) -> list[Reply]:
        replies = self.policy.act([in_form(state, self.action_format) for state in states])
        return [self._read(reply) for reply in replies]

    def submit(self, state: State) -> Future[Reply]:
        return then(self._submitting.submit(in_form(state, self.action_format)), self._read)

    def around(self, policy: Policy) -> FormatAdapter:
        """The same for another policy."""
        return FormatAdapter(policy, self.action_format)

    def ended(self, key: Key) -> None:
        release(self.policy, key)

    @cached_property
    def _submitting(self) -> Submitting:
        return submitting(self.policy)

    def _read(self, reply: Reply) -> Reply:
        if reply.error or reply.text is None:
            return reply
        try:
            return replace(reply, text=None, action=read(self.action_format, reply.text))
        except FormatError as error:
            return replace(reply, text=None, error=f"format: {error}")


def in_form(state: State, action_format: ActionFormat) -> State:
    """The state as an agent with that format would have seen it. A turn that the format cannot
    express, or that held no call, keeps its text."""
    turns: list[Turn] = []
    problem = ""
    for turn in state.turns:
        seen = _mistake(turn.observation, problem, action_format)
        text, problem = _words(turn, action_format)
        turns.append(replace(turn, observation=seen, text=text, token_ids=(), logprobs=()))
    return replace(
        state,
        system_prompt=prompts.system_prompt(action_format),
        turns=tuple(turns),
        observation=_mistake(state.observation, problem, action_format),
    )


def _words(turn: Turn, action_format: ActionFormat) -> tuple[str, str]:
    """The turn's text in the format; and what is wrong with it there, if no call was run."""
    if turn.action is None:
        try:
            action_format.parse(turn.text)
        except FormatError as error:
            return turn.text, str(error)
        return turn.text, ""
    try:
        return action_format.render(turn.action), ""
    except FormatError:
        return turn.text, ""


def _mistake(observation: str, problem: str, action_format: ActionFormat) -> str:
    """The answer to a malformed turn shows an example, which must be one of ``action_format``."""
    if problem and observation.startswith(prompts.NOT_RUN):
        return prompts.format_mistake(problem, action_format)
    return observation
