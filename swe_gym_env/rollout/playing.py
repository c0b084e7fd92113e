"""One episode from its reset to its record: the state machine that every back end runs.

    reset -> (draw who acts -> ask -> step) ... -> free the slot -> grade -> wait for labels

It is plain code in a separate thread, so that no episode waits for another one except where a
limit says so: how many commands run at once, and how many gradings.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace

from swe_gym_env.env import Step
from swe_gym_env.errors import EngineError, InfraError, PolicyError, SWEGymError
from swe_gym_env.policies.base import CONTEXT_FULL
from swe_gym_env.rollout import failures
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.running import RunningEpisode
from swe_gym_env.rollout.turns import TurnCollector
from swe_gym_env.types import Annotation, Episode, Outcome, Turn

log = logging.getLogger(__name__)

COMMANDS_PER_CPU = 2  # at the same time: with more, each may reach its time limit

Played = tuple[Episode, list[Annotation]]


class LostEpisodeError(SWEGymError):
    """An attempt that says nothing about the agent.

    Attributes:
        cause: Which part failed.
        message: What it said.
        began: When the attempt began (``time.monotonic``).
        played: What is recorded if there is no further attempt.
    """

    def __init__(self, cause: str, message: str, began: float, played: Played) -> None:
        super().__init__(cause, message, began, played)  # all of them, so that it pickles
        self.cause, self.message, self.began, self.played = cause, message, began, played

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}"


def limits(
    concurrency: int, commands: int | None
) -> tuple[threading.Semaphore, threading.Semaphore]:
    """How many commands (None: two for each CPU) and how many gradings run at the same time."""
    cpus = os.cpu_count() or 1
    most = COMMANDS_PER_CPU * cpus if commands is None else commands
    graders = min(concurrency, max(cpus, most // COMMANDS_PER_CPU))
    return threading.Semaphore(min(concurrency, most)), threading.Semaphore(graders)


@dataclass(frozen=True)
class Player:
    """Plays episodes, each in the thread that calls :meth:`play`.

    Attributes:
        turns: Asks for turns and labels.
        breaker: Notes an engine that does not answer while an episode is graded.
        commands: Limits what runs in sandboxes.
        graders: Limits what is graded.
        stopping: Set when the roll-out ends early: nothing new is begun.
    """

    turns: TurnCollector
    breaker: CircuitBreaker
    commands: threading.Semaphore
    graders: threading.Semaphore
    stopping: threading.Event

    def play(
        self,
        live: RunningEpisode,
        on_turn: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Played:
        """Play, grade and record ``live``; its environment is closed in any case.

        Args:
            live: The episode, not begun.
            on_turn: Called after each executed turn.
            on_end: Called once when the last turn is done, before grading.

        Raises:
            LostEpisodeError: The infrastructure failed.
            CancelledError: The roll-out is stopping.
        """
        try:
            stop_reason = self._play(live, on_turn)
            on_end()
            outcome = self._outcome(live)
            episode = live.episode(outcome, stop_reason)
            live.env.close()  # labels may take long, and need no sandbox any more
            return episode, self.turns.labels(live, episode)
        except InfraError as error:
            raise self._lost(live, error.cause, str(error)) from None
        finally:
            live.env.close()
            self.turns.ended(live)

    def _play(self, live: RunningEpisode, on_turn: Callable[[], None]) -> str:
        """Returns why the episode ended."""
        request = live.request
        with self._commands():
            live.observation, live.info = live.env.reset(
                seed=request.seed, options={"instance_id": request.task.instance_id}
            )
        live.system_prompt = live.info["system_prompt"]
        while True:
            turn = self.turns.take(live)
            if isinstance(turn, Turn):
                ended = self._step(live, turn)
                on_turn()
            elif turn.startswith(CONTEXT_FULL):
                with self._commands():
                    ended = _seen(live, live.stop("context_full")[0])
            else:
                raise PolicyError(turn)
            if ended:
                break
        outcome: Outcome | None = live.info.get("outcome")
        if outcome is not None and live.info["stop_reason"] == failures.INFRA:
            raise self._lost(live, *failures.cause_of(outcome))
        return str(live.info["stop_reason"])

    def _step(self, live: RunningEpisode, turn: Turn) -> bool:
        with self._commands():
            began = time.monotonic()
            step, patch = live.step(turn.text)
            seconds = time.monotonic() - began
        executed = {"action": step[-1]["action"], "step_seconds": seconds, "patch": patch}
        live.turns.append(replace(turn, **executed))
        return _seen(live, step)

    def _outcome(self, live: RunningEpisode) -> Outcome:
        """Grade, and again for as long as the engine of the sandboxes does not answer."""
        outcome: Outcome | None = live.info.get("outcome")
        if outcome is not None:
            return outcome
        if live.env.grade_mode != "deferred":
            return Outcome("unresolved", mask=True, reason="not graded")
        while True:
            # before any waiting, so that all that fail in one outage count as one failure
            began = time.monotonic()
            self.stopping.wait(self.breaker.pause())
            with self.graders:
                self._check()
                outcome = live.env.grade()
            cause, message = failures.cause_of(outcome)
            if cause != EngineError.cause:
                return outcome
            self.breaker.add(cause, message, began)

    def _commands(self) -> threading.Semaphore:
        self._check()
        return self.commands

    def _check(self) -> None:
        if self.stopping.is_set():
            raise CancelledError

    def _lost(self, live: RunningEpisode, cause: str, message: str) -> LostEpisodeError:
        """The record holds the labels that are there; for others nobody waits."""
        episode = live.episode(failures.outcome(cause, message), failures.INFRA)
        there = [label for label in live.labels if isinstance(label, Annotation)]
        return LostEpisodeError(cause, message, live.began, (episode, there))


def _seen(live: RunningEpisode, step: Step) -> bool:
    """Take over what the environment answered. Whether the episode has ended."""
    live.observation, _, terminated, truncated, live.info = step
    return terminated or truncated
