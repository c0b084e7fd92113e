"""What makes the environment of an episode, here and on the machines of a cluster."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from experiments.pipeline.student import TokenCounter
from swe_gym_env.env import SWEEnv
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import TaskInstance


class EnvFactory:
    """Makes the environment of an episode from its task.

    A copy on another machine finds the sandbox there, by its name, and needs neither the model's
    folder nor torch.

    Args:
        sandbox: The section of that name.
        actions: The section of that name: how the student writes turns, with which tools.
        limits: The section of that name.
        count_tokens: Counts the tokens of an episode.
    """

    def __init__(
        self,
        *,
        sandbox: DictConfig,
        actions: DictConfig,
        limits: DictConfig,
        count_tokens: TokenCounter,
    ) -> None:
        self._sandbox, self._actions, self._limits = sandbox, actions, limits
        self._count_tokens = count_tokens

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "provider"}

    @cached_property
    def provider(self) -> SandboxProvider:
        from swe_gym_env import sandbox
        from swe_gym_env.sandbox.warm import WarmProvider

        chosen = sandbox.provider(self._sandbox.name)
        ahead = self._sandbox.get("ahead")
        return WarmProvider(chosen, ahead) if ahead else chosen

    def __call__(self, task: TaskInstance) -> SWEEnv:
        """Raises SetupError where the sandbox or the student's tokenizer cannot be used."""
        limits = self._limits
        return SWEEnv(
            [task],
            sandbox=self.provider,
            action_format=self._actions.name,
            tools=self._actions.tools,
            max_turns=limits.max_turns,
            max_tokens=limits.max_tokens,
            max_seconds=limits.max_seconds,
            max_format_errors=limits.max_format_errors,
            max_repeats=limits.max_repeats,
            command_timeout=limits.command_timeout,
            output_limit=limits.output_limit,
            grade="deferred",
            grade_timeout=limits.grading_timeout,
            count_tokens=self._count_tokens.load(),
        )
