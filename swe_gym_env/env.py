"""SWEEnv: text of an agent goes in, the output of its command comes out, tests give the reward.

The budgets are part of the environment, because an outer ``TimeLimit`` could end an episode but not
score it. Neither of the following is an exception: a malformed turn is answered with an
observation, and a fault of the infrastructure ends the episode with an ``infra_error`` outcome
whose ``mask`` is True.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium
from gymnasium.error import ResetNeeded

from swe_gym_env import actions, prompts
from swe_gym_env.actions import ActionFormat, FormatError
from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.grading import score
from swe_gym_env.grading.extract import Extracted, extract, moment
from swe_gym_env.sandbox.base import Sandbox, SandboxProvider
from swe_gym_env.sandbox.start import base_commit, start
from swe_gym_env.spaces import AnyText, outgoing
from swe_gym_env.tasks.check import check
from swe_gym_env.tools import FINISH, Toolbox
from swe_gym_env.types import Outcome, TaskInstance, ToolCall

log = logging.getLogger(__name__)

MAX_OBSERVATION = 200_000  # characters
MAX_ACTION = 200_000  # characters

# observation, reward, terminated, truncated, info
Step = tuple[str, float, bool, bool, dict[str, Any]]


def estimate_tokens(text: str) -> int:
    """The approximate number of tokens of ``text``, for use without a tokenizer."""
    return (len(text) + 3) // 4


class SWEEnv(gymnasium.Env[str, str]):
    """A Gymnasium environment that plays software-engineering tasks.

    No sandbox is started before ``reset``. The last ``info`` of an episode has ``stop_reason``,
    ``patch``, ``left_out``, ``costs`` and, once it is scored, ``outcome``.

    Args:
        tasks: Task instances, or a name for ``swe_gym_env.tasks.load``.
        sandbox: A sandbox provider or its name (``swe_gym_env.sandbox.provider``).
        action_format: How a turn is written (``swe_gym_env.actions``).
        tools: Names of the tools that are offered; None for all that the action format can call.
        max_turns: Turns after which the episode ends.
        max_tokens: Tokens after which it ends. Everything that the agent reads and writes counts.
        max_seconds: Seconds spent inside the environment after which it ends. The time in which a
            model generates does not count.
        max_format_errors: Consecutive malformed turns after which it ends.
        max_repeats: Consecutive identical calls after which it ends.
        command_timeout: Seconds that one command of the agent may take.
        output_limit: Characters of a command's output that an observation shows.
        grade: ``on_end`` scores in the last step, ``deferred`` when :meth:`grade` is called,
            ``never`` not at all.
        grade_timeout: Seconds that the hidden tests may take.
        count_tokens: Counts the tokens of a text; an estimate by default.
        render_mode: ``ansi`` makes :meth:`render` return the episode as text.

    Attributes:
        form: The action format.
        task: The task of the current episode.
        sandbox: The sandbox of the current episode; None when no episode is running.
        costs: Seconds of the episode by part: ``start``, ``tools``, ``diff``, ``grade``.

    Raises:
        SetupError: An argument has an impossible value.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        tasks: Sequence[TaskInstance] | str,
        *,
        sandbox: SandboxProvider | str = "auto",
        action_format: str = "bash_block",
        tools: Sequence[str] | None = None,
        max_turns: int = 30,
        max_tokens: int = 32_768,
        max_seconds: float = 1800.0,
        max_format_errors: int = 3,
        max_repeats: int = 3,
        command_timeout: float = 60.0,
        output_limit: int = 4000,
        grade: Literal["on_end", "deferred", "never"] = "on_end",
        grade_timeout: float = 300.0,
        count_tokens: Callable[[str], int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if grade not in ("on_end", "deferred", "never"):
            raise SetupError(f"grade={grade!r}: it is one of on_end, deferred, never")
        if render_mode not in (None, "ansi"):
            raise SetupError(f"render_mode={render_mode!r}: it is None or 'ansi'")
        self.observation_space = AnyText(MAX_OBSERVATION)
        self.action_space = AnyText(MAX_ACTION)
        self.render_mode = render_mode
        self.form: ActionFormat = actions.action_format(action_format, tools)
        self.grade_mode = grade
        self.task: TaskInstance | None = None
        self.sandbox: Sandbox | None = None
        self._tasks = tasks
        self._provider = sandbox
        self._budget = {"turns": max_turns, "tokens": max_tokens, "seconds": max_seconds}
        self._max_format_errors = max_format_errors
        self._max_repeats = max_repeats
        self._command_timeout = command_timeout
        self._output_limit = output_limit
        self._grade_timeout = grade_timeout
        self._count = count_tokens or estimate_tokens
        self._clear()

    def _clear(self) -> None:
        self._toolbox: Toolbox | None = None
        self._turn = self._tokens = self._format_errors = self._repeats = 0
        self._seconds = 0.0
        self.costs: dict[str, float] = {}
        self._last_call: tuple[str, dict[str, str]] | None = None
        self._stop_reason = ""
        self._extracted = Extracted()
        self._outcome: Outcome | None = None
        self._transcript: list[str] = []

    # -- Gymnasium -----------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode in a fresh sandbox.

        Args:
            seed: Seed of the random choice of a task.
            options: ``{"instance_id": ID}`` chooses the task instead.

        Returns:
            The task prompt and ``info``, which holds the system prompt.

        Raises:
            SandboxError: The sandbox could not be started.
            SetupError: There is no such task, or the machine lacks something.
        """
        super().reset(seed=seed)
        self.close()
        self._clear()
        task = self.task = self._choose((options or {}).get("instance_id"))
        started = time.monotonic()
        self.sandbox = start(self.provider, task)
        self._base = base_commit(self.sandbox, task)
        self._began = moment()
        self._spend("start", started)
        self._toolbox = Toolbox(
            self.sandbox, self.form.tools, self._command_timeout, self._output_limit
        )
        self._system_prompt = prompts.system_prompt(self.form)
        observation = self._say(prompts.task_prompt(task))
        self._tokens += self._count(self._system_prompt)
        return observation, self._info(None)

    def step(self, action: str) -> Step:
        """Take one turn.

        Args:
            action: Text of the agent in the action format. Any text is answered: malformed text
                with an observation that says what is wrong.

        Returns:
            Observation, reward (0.0 before the end), terminated (the agent has finished), truncated
            (a budget has ended the episode, or a fault), info.
        """
        if self._toolbox is None or self._stop_reason:
            raise ResetNeeded("call reset() first: no episode is running")
        self._turn += 1
        self._tokens += self._count(action)
        self._transcript.append(action)
        call: ToolCall | None = None
        try:
            call = actions.read(self.form, action)
        except FormatError as error:
            self._format_errors += 1
            observation = prompts.format_mistake(str(error), self.form)
        else:
            self._format_errors = 0
            if call.name == FINISH:
                return self._end(prompts.FINISHED, "finished", call)
            try:
                observation = self._run(call)
            except InfraError as error:
                return self._fail(error, call)
        observation = self._say(observation)
        stop_reason = self._over_budget()
        if stop_reason:
            return self._end(observation, stop_reason, call, recorded=True)
        return observation, 0.0, False, False, self._info(call)

    def stop(self, reason: str) -> Step:
        """End the episode from outside and score it like any other.

        Args:
            reason: Its ``stop_reason``.
        """
        if self._toolbox is None or self._stop_reason:
            raise ResetNeeded("call reset() first: no episode is running")
        return self._end(f"(stopped: {reason})", reason, None)

    def grade(self) -> Outcome:
        """Score the ended episode in a fresh sandbox, for the first time or again."""
        if not self._stop_reason or self.task is None:
            raise ResetNeeded("only an ended episode can be graded")
        if self._stop_reason == "infra_error" and self._outcome is not None:
            return self._outcome
        started = time.monotonic()
        self._outcome = score(
            self.task, self._extracted, self.provider, timeout=self._grade_timeout
        )
        self._spend("grade", started)
        return self._outcome

    def render(self) -> str | None:  # type: ignore[override]
        """The episode so far, as text; None if ``render_mode`` is not ``ansi``."""
        return "\n\n".join(self._transcript) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Close the sandbox. It may be called more than once."""
        sandbox, self.sandbox, self._toolbox = self.sandbox, None, None
        if sandbox is not None:
            sandbox.close()

    # -- Implementation ------------------------------------------------------------------------

    @property
    def provider(self) -> SandboxProvider:
        """What makes the sandboxes; looked up by its name at the first use."""
        if isinstance(self._provider, str):
            from swe_gym_env.sandbox import provider

            self._provider = provider(self._provider)
        assert not isinstance(self._provider, str)
        return self._provider

    def _choose(self, instance_id: str | None) -> TaskInstance:
        if isinstance(self._tasks, str):
            from swe_gym_env.tasks import load

            self._tasks = load(self._tasks)
        assert not isinstance(self._tasks, str)
        if not self._tasks:
            raise SetupError("there are no tasks to choose from")
        if instance_id is None:
            return check(self._tasks[int(self.np_random.integers(len(self._tasks)))])
        for task in self._tasks:
            if task.instance_id == instance_id:
                return check(task)
        some = ", ".join(task.instance_id for task in self._tasks[:3])
        raise SetupError(f"no task {instance_id!r} among {len(self._tasks)}: {some}, ...")

    def _run(self, call: ToolCall) -> str:
        assert self._toolbox is not None
        same = (call.name, {key: value.strip() for key, value in call.arguments.items()})
        self._repeats = self._repeats + 1 if same == self._last_call else 1
        self._last_call = same
        started = time.monotonic()
        try:
            return self._toolbox.run(call, self._budget["seconds"] - self._seconds)
        finally:
            self._spend("tools", started)

    def _over_budget(self) -> str:
        if self._format_errors >= self._max_format_errors:
            return "max_format_errors"
        if self._repeats >= self._max_repeats:
            return "max_repeats"
        spent = {"turns": self._turn, "tokens": self._tokens, "seconds": self._seconds}
        return next((f"max_{key}" for key in spent if spent[key] >= self._budget[key]), "")

    def _end(
        self, observation: str, reason: str, call: ToolCall | None, recorded: bool = False
    ) -> Step:
        """Extract the patch, close the sandbox, and score.

        Args:
            observation: The last observation.
            reason: The ``stop_reason``.
            call: The call of the last turn.
            recorded: Whether the observation is already part of the transcript and its tokens are
                counted.
        """
        assert self.sandbox is not None and self.task is not None
        started = time.monotonic()
        try:
            self._extracted = extract(
                self.sandbox, self.task, self.provider, self._base, self._began
            )
        except InfraError as error:
            return self._fail(error, call)
        self._spend("diff", started)
        self._stop_reason = reason
        self.close()
        if not recorded:
            observation = self._say(observation)
        reward = self.grade().reward if self.grade_mode == "on_end" else 0.0
        finished = reason == "finished"
        return observation, float(reward), finished, not finished, self._info(call)

    def _fail(self, error: InfraError, call: ToolCall | None) -> Step:
        log.info("episode of %s lost: %s", self.task and self.task.instance_id, error)
        self._stop_reason = "infra_error"
        self._outcome = _infra(error)
        self.close()
        return self._say(prompts.INFRA_FAULT), 0.0, False, True, self._info(call)

    def _say(self, text: str) -> str:
        text = outgoing(text, MAX_OBSERVATION)
        self._tokens += self._count(text)
        self._transcript.append(text)
        return text

    def _spend(self, part: str, started: float) -> None:
        seconds = time.monotonic() - started
        self._seconds += seconds
        self.costs[part] = self.costs.get(part, 0.0) + seconds

    def _info(self, call: ToolCall | None) -> dict[str, Any]:
        """A new dict for each step; the last one of an episode says how it ended."""
        assert self.task is not None
        info: dict[str, Any] = {
            "instance_id": self.task.instance_id,
            "system_prompt": self._system_prompt,
            "turn": self._turn,
            "tokens": self._tokens,
            "action": call,
        }
        if self._stop_reason:
            info |= {
                "stop_reason": self._stop_reason,
                "patch": self._extracted.patch,
                "left_out": self._extracted.omissions,
                "costs": dict(self.costs),
            }
            if self._outcome is not None:
                info["outcome"] = self._outcome
        return info


def _infra(error: InfraError) -> Outcome:
    return Outcome("infra_error", mask=True, reason=f"{error.cause}: {error}")
