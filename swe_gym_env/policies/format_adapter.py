"""A teacher that writes turns in a form of its own: it is told that form, and what it says is read
in it. So a model can teach in the format it was trained on, whatever the student speaks.

The history is written again in that form, from the executed calls; token ids of the student are
left out, since they mean nothing to another tokenizer. What comes back is a canonical call, which
the roll-out renders for the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swe_gym_env import prompts
from swe_gym_env.actions import ActionFormat, FormatError, read
from swe_gym_env.policies.base import Policy, Reply, State, needs_answer
from swe_gym_env.types import Turn


class FormatAdapter:
    """``policy`` asked and understood in ``form``. Text that holds no call is an error."""

    def __init__(self, policy: Policy, form: ActionFormat) -> None:
        self.policy, self.form = policy, form
        self.name, self.needs_sandbox = policy.name, policy.needs_sandbox
        self.needs_answer = needs_answer(policy)

    def act(self, states: Sequence[State]) -> list[Reply]:
        replies = self.policy.act([in_form(state, self.form) for state in states])
        return [self._read(reply) for reply in replies]

    def _read(self, reply: Reply) -> Reply:
        if reply.error or reply.text is None:
            return reply
        try:
            return replace(reply, text=None, action=read(self.form, reply.text))
        except FormatError as error:
            return replace(reply, text=None, error=f"format: {error}")


def in_form(state: State, form: ActionFormat) -> State:
    """The state as an agent that speaks ``form`` would have seen it. A turn that ``form`` cannot
    say, or that held no call, keeps its words."""
    turns: list[Turn] = []
    problem = ""
    for turn in state.turns:
        seen = _mistake(turn.observation, problem, form)
        text, problem = _words(turn, form)
        turns.append(replace(turn, observation=seen, text=text, token_ids=(), logprobs=()))
    return replace(
        state,
        system_prompt=prompts.system_prompt(form),
        turns=tuple(turns),
        observation=_mistake(state.observation, problem, form),
    )


def _words(turn: Turn, form: ActionFormat) -> tuple[str, str]:
    """The turn's text in ``form``; and what ``form`` finds wrong with it, where no call was run."""
    if turn.action is None:
        try:
            form.parse(turn.text)
        except FormatError as error:
            return turn.text, str(error)
        return turn.text, ""
    try:
        return form.render(turn.action), ""
    except FormatError:
        return turn.text, ""


def _mistake(observation: str, problem: str, form: ActionFormat) -> str:
    """The answer to a malformed turn shows an example, which must be one of ``form``."""
    if problem and observation.startswith(prompts.NOT_RUN):
        return prompts.format_mistake(problem, form)
    return observation
