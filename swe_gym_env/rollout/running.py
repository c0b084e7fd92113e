"""One episode: its request, its state while it is played, and the record that is kept."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from swe_gym_env.env import Step, SWEEnv
from swe_gym_env.policies.base import Key, Policy, Reply, State, shown
from swe_gym_env.rollout.history import windowed
from swe_gym_env.rollout.working_diff import UNKNOWN, changes
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, Turn


@dataclass(frozen=True)
class Request:
    """One episode to play.

    Attributes:
        task: The task.
        seed: Seed of all random choices.
        round: Round of training that it belongs to; 0 outside of one.
        repeat: Number of the episode among those of the same task.
    """

    task: TaskInstance
    seed: int = 0
    round: int = 0
    repeat: int = 0

    @property
    def episode_id(self) -> str:
        return f"{self.task.instance_id}/{self.round}/{self.repeat}/{self.seed}"

    def key(self, turn: int, role: str) -> Key:
        """What randomness of one turn depends on; ``role`` separates policies and mixer."""
        return (self.seed, self.round, self.task.instance_id, self.repeat, turn, role)


@dataclass(eq=False)
class RunningEpisode:
    """An episode in play.

    Attributes:
        request: What is played.
        env: Its environment, with the sandbox.
        attempt: Which attempt this is, from 1.
        window: How many observations a policy sees (``history.py``); None: all.
        order: Place of the request among all that are played.
        patch: The newest known diff of the sandbox; None before the first one.
        system_prompt: Empty until the reset is done.
        observation: The newest one, not yet answered.
        turns: Executed turns.
        labels: One for each executed turn: the label, the future of the teacher's reply, or None
            where the teacher was not asked.
        teacher_fallbacks: Turns that the student took because the teacher failed.
        info: The newest ``info`` of the environment.
        began: When this attempt began (``time.monotonic``).
    """

    request: Request
    env: SWEEnv
    attempt: int = 1
    window: int | None = None
    order: int = 0
    patch: str | None = None
    system_prompt: str = ""
    observation: str = ""
    turns: list[Turn] = field(default_factory=list)
    labels: list[Annotation | Future[Reply] | None] = field(default_factory=list)
    teacher_fallbacks: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def key(self, role: str) -> Key:
        return self.request.key(len(self.turns), role)

    def state(self, role: str, policy: Policy, turn: int | None = None) -> State:
        """What ``policy`` is shown of the episode as it stands, or as it stood before ``turn``."""
        number = len(self.turns) if turn is None else turn
        return State(
            key=self.request.key(number, role),
            task=shown(self.request.task, policy),
            system_prompt=self.system_prompt,
            turns=windowed(self.turns[:number], self.window),
            observation=self.observation if turn is None else self.turns[turn].observation,
            sandbox=self.env.sandbox if policy.needs_sandbox else None,
        )

    def step(self, text: str) -> tuple[Step, str | None]:
        """The environment's step, and the diff after it if that has changed."""
        step = self.env.step(text)
        call, sandbox, before = step[-1]["action"], self.env.sandbox, self.patch
        if sandbox is None or before == UNKNOWN or (call is None and before is not None):
            return step, None  # it has ended, git is slow or gone, or nothing was run
        self.patch = changes(sandbox, self.request.task)
        return step, self.patch if self.patch != before else None

    def stop(self, reason: str) -> tuple[Step, None]:
        """The same for an episode that is ended from outside."""
        return self.env.stop(reason), None

    def episode(self, outcome: Outcome, stop_reason: str) -> Episode:
        request, left_out = self.request, self.info.get("left_out")
        return Episode(
            episode_id=request.episode_id,
            instance_id=request.task.instance_id,
            seed=request.seed,
            round=request.round,
            repeat=request.repeat,
            system_prompt=self.system_prompt,
            turns=tuple(self.turns),
            outcome=outcome,
            stop_reason=stop_reason,
            final_observation=self.observation,
            patch=self.info.get("patch", ""),
            seconds=time.monotonic() - self.began,
            metadata={
                "attempts": self.attempt,
                "teacher_fallbacks": self.teacher_fallbacks,
                "tokens": self.info.get("tokens", 0),
                "costs": dict(self.env.costs),
                **({"history": self.window} if self.window else {}),
                **({"left_out": list(left_out)} if left_out else {}),
            },
        )
