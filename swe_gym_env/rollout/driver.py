"""The roll-out driver plays many episodes at once and knows no algorithm.

Episodes advance in batches, so that a model in this process answers all waiting states in one
batch. The mixer decides who acts, and the caller decides what is learned. The content of an episode
depends only on its request, not on how many others run or which one ends first. Scoring takes
seconds, so it runs in other threads while the next episode takes the free slot.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from swe_gym_env.env import Step, SWEEnv
from swe_gym_env.errors import EngineError, InfraError, PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL, Policy
from swe_gym_env.rollout import failures
from swe_gym_env.rollout import history as histories
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.running import Request, RunningEpisode
from swe_gym_env.rollout.turns import TurnCollector
from swe_gym_env.sandbox.base import SandboxSpec
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, Turn

__all__ = ["Progress", "Request", "rollout"]

log = logging.getLogger(__name__)

# The longest time that a batch waits for its slowest command; a late episode joins a later batch.
# It is longer than most commands, so that batches normally have the same members in each run.
BATCH_WAIT_SECONDS = 30.0
MOST_AHEAD = 64  # waiting episodes that are announced to a provider that starts sandboxes early
COMMANDS_PER_CPU = 2  # at the same time: with more, each may reach its time limit
REPORT_SECONDS = 1.0  # longest time between two calls of `progress`, but for a policy that answers
LAST_SECONDS = 10.0  # after an interrupt, for the scoring of what has ended


@dataclass(frozen=True)
class Progress:
    """How far a roll-out has come.

    Attributes:
        total: Episodes that are wanted.
        done: Episodes that have ended and are scored.
        resolved: Those of the ``done`` that resolved their task.
        running: Episodes in play or being scored.
        turns: Turns executed so far, also those of episodes that were lost and played again.
    """

    total: int
    done: int = 0
    resolved: int = 0
    running: int = 0
    turns: int = 0

    def with_episode(self, outcome: Outcome, turns: int = 0) -> Progress:
        """After one more episode; ``turns`` of it that were not counted before."""
        return replace(
            self,
            done=self.done + 1,
            resolved=self.resolved + outcome.resolved,
            turns=self.turns + turns,
        )

    def plus(self, later: Progress) -> Progress:
        """The sums when ``later`` goes on after this, among the same ``total``."""
        return replace(
            later,
            total=self.total,
            done=self.done + later.done,
            resolved=self.resolved + later.resolved,
            turns=self.turns + later.turns,
        )


OnEpisode = Callable[[Episode, list[Annotation]], None]


def rollout(
    requests: Sequence[Request],
    *,
    make_env: Callable[[TaskInstance], SWEEnv],
    student: Policy,
    teacher: Policy | None = None,
    mixer: Mixer,
    annotate: bool,
    on_episode: OnEpisode,
    concurrency: int = 8,
    retries: int = 2,
    max_faults: int = 10,
    history: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Play every request; ``on_episode`` is called, in the calling thread, as each one ends.

    Infrastructure errors are retried up to ``retries`` times in a new sandbox; then the episode is
    delivered as ``infra_error``. Engine outages (``EngineError``) do not count as an attempt. An
    exception, also one of ``on_episode`` or ``progress``, closes every sandbox and is raised here.
    Before a KeyboardInterrupt is raised, episodes that have ended get ten seconds to be scored.

    Args:
        requests: Which episodes.
        make_env: Makes the environment of an episode.
        student: Acts.
        teacher: Acts where the mixer says so, and labels.
        mixer: Decides turn by turn who acts.
        annotate: Whether the teacher says in every state what it would have done.
        on_episode: Called with each episode and its labels.
        concurrency: Episodes in play at the same time.
        retries: Further attempts after an infrastructure error.
        max_faults: Consecutive infrastructure errors of one kind that end the roll-out
            (``circuit_breaker.py``).
        history: How many observations student and teacher see, the newest; None: all.
        progress: Called about every second.

    Raises:
        SetupError: The roll-out cannot go on, for a reason that only the user can fix.
    """
    histories.check(history)
    ids = [request.episode_id for request in requests]
    if len(set(ids)) < len(ids):
        raise ValueError("two requests share one episode id: give them different repeats or seeds")
    turns = TurnCollector(student, teacher, mixer, annotate)
    driver = _Driver(
        make_env, turns, on_episode, retries, CircuitBreaker(max_faults), history, progress
    )
    return driver.run(requests, concurrency)


class _Driver:
    def __init__(
        self,
        make_env: Callable[[TaskInstance], SWEEnv],
        turns: TurnCollector,
        on_episode: OnEpisode,
        retries: int,
        breaker: CircuitBreaker,
        window: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self.make_env, self.turns, self.retries = make_env, turns, retries
        self.breaker, self.window = breaker, window
        self.on_episode, self.progress = on_episode, progress
        self.live: list[RunningEpisode] = []
        self.grading: dict[Future[Outcome], RunningEpisode] = {}

    def run(self, requests: Sequence[Request], concurrency: int) -> Progress:
        self.waiting = deque((request, 1) for request in requests)
        self.now = Progress(total=len(requests))
        cpus = os.cpu_count() or 1
        self.steppers = ThreadPoolExecutor(min(concurrency, COMMANDS_PER_CPU * cpus), "step")
        self.graders = ThreadPoolExecutor(min(concurrency, cpus), "grade")
        hurry = False
        try:
            while self.waiting or self.live or self.grading:
                self._settle()
                self._fill(concurrency)
                self._settle()
                self._batch()
                self._collect_grades(block=not self.live and not self.waiting)
                self._report()
                self._rest()
        except KeyboardInterrupt:
            hurry = True
            wait(self.grading, timeout=LAST_SECONDS)
            self._collect_grades(block=False)
            raise
        finally:
            self._close(hurry)
        return self.now

    def _report(self) -> None:
        self.progress(replace(self.now, running=len(self.live) + len(self.grading)))

    def _wait(
        self, jobs: Collection[Future[Any]], seconds: float = math.inf, until: str = ALL_COMPLETED
    ) -> None:
        """As ``concurrent.futures.wait``, but reports every second, so that ``progress`` can end
        the roll-out with an exception."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            done, going = wait(jobs, min(left, REPORT_SECONDS), until)
            if not going or (done and until == FIRST_COMPLETED):
                return
            self._report()

    def _fill(self, concurrency: int) -> None:
        while self.waiting and len(self.live) < concurrency and not self.breaker.pause():
            request, attempt = self.waiting.popleft()
            live = RunningEpisode(request, self.make_env(request.task), attempt, self.window)
            self._run(live, partial(_reset, live))
            self.live.append(live)
            if prefetch := getattr(live.env.provider, "prefetch", None):
                prefetch(
                    [
                        SandboxSpec.of(request.task)
                        for request, _ in islice(self.waiting, MOST_AHEAD)
                    ]
                )

    def _rest(self) -> None:
        """Wait if nothing can be started after consecutive failures."""
        if not self.live and self.waiting and (pause := self.breaker.pause()):
            if self.grading:
                self._wait(self.grading, pause, FIRST_COMPLETED)
            else:
                time.sleep(min(pause, REPORT_SECONDS))  # the loop comes back here

    def _batch(self) -> None:
        """One turn of every episode that waits for one."""
        ready = [live for live in self.live if live.job is None]
        for live, turn in zip(ready, self.turns.take(ready), strict=True):
            if isinstance(turn, Turn):
                live.pending_turn = turn
                self._run(live, partial(live.step, turn.text))
            elif turn.startswith(CONTEXT_FULL):
                self._run(live, partial(live.stop, "context_full"))
            else:
                self._lost(live, PolicyError.cause, turn)

    def _run(self, live: RunningEpisode, call: Callable[[], Any]) -> None:
        live.job_began = time.monotonic()
        live.job = self.steppers.submit(_timed, call)

    def _settle(self) -> None:
        """Wait for what runs in the sandboxes, but not long for slow commands; take the results."""
        running = {live.job: live.job_began for live in self.live if live.job}
        fresh = [job for job in running if time.monotonic() - running[job] < BATCH_WAIT_SECONDS]
        if fresh:
            self._wait(fresh, BATCH_WAIT_SECONDS)
        elif running and len(running) == len(self.live):
            self._wait([*running, *self.grading], until=FIRST_COMPLETED)
        for live in [live for live in self.live if live.job and live.job.done()]:
            job, live.job = live.job, None
            assert job is not None
            try:
                result, seconds = job.result()
            except InfraError as error:  # reset found no sandbox
                self._lost(live, error.cause, str(error))
                continue
            if live.system_prompt:
                step, patch = result
                self._stepped(live, step, patch, seconds)
            else:
                live.observation, live.info = result
                live.system_prompt = live.info["system_prompt"]

    def _stepped(self, live: RunningEpisode, step: Step, patch: str | None, seconds: float) -> None:
        observation, _, terminated, truncated, live.info = step
        if live.pending_turn is not None:
            executed = {"action": live.info["action"], "step_seconds": seconds, "patch": patch}
            live.turns.append(replace(live.pending_turn, **executed))
            live.pending_turn = None
            self.now = replace(self.now, turns=self.now.turns + 1)
        live.observation = observation
        if not (terminated or truncated):
            return
        outcome: Outcome | None = live.info.get("outcome")
        if outcome is not None and live.info["stop_reason"] == "infra_error":
            self._lost(live, *failures.cause_of(outcome))
        elif outcome is None and live.env.grade_mode == "deferred":
            self.live.remove(live)
            self._grade(live)
        else:
            ungraded = Outcome("unresolved", mask=True, reason="not graded")
            self._deliver(live, outcome or ungraded, live.info["stop_reason"])

    def _grade(self, live: RunningEpisode) -> None:
        live.job_began = time.monotonic()
        self.grading[self.graders.submit(_later, self.breaker.pause(), live.env.grade)] = live

    def _lost(self, live: RunningEpisode, cause: str, message: str) -> None:
        """Play it again unless its attempts are used up; an engine outage uses none."""
        name, charged = live.request.episode_id, cause != EngineError.cause
        if charged and live.attempt > self.retries:
            log.warning("%s: given up after %d attempts: %s", name, live.attempt, message)
            self._deliver(live, failures.outcome(cause, message), failures.INFRA)
        else:
            level = logging.WARNING if charged else logging.DEBUG  # the circuit breaker logs it
            log.log(level, "%s: attempt %d lost, again: %s", name, live.attempt, message)
            live.env.close()
            self.live.remove(live)
            self.waiting.appendleft((live.request, live.attempt + charged))
        self.breaker.add(cause, message, live.began)

    def _collect_grades(self, block: bool) -> None:
        done = {future for future in self.grading if future.done()}
        if block and self.grading and not done:
            self._wait(self.grading, until=FIRST_COMPLETED)
            done = {future for future in self.grading if future.done()}
        for future in done:
            live, outcome = self.grading.pop(future), future.result()
            cause, message = failures.cause_of(outcome)
            if cause == EngineError.cause:
                self.breaker.add(cause, message, live.job_began)
                self._grade(live)
                continue
            self._deliver(live, outcome, live.info["stop_reason"])
            if cause:
                self.breaker.add(cause, message, live.job_began)

    def _deliver(self, live: RunningEpisode, outcome: Outcome, stop_reason: str) -> None:
        if live in self.live:
            self.live.remove(live)
        if outcome.status != "infra_error":
            self.breaker.success()
        self.now = self.now.with_episode(outcome)
        self.on_episode(live.episode(outcome, stop_reason), live.annotations)
        live.env.close()

    def _close(self, hurry: bool) -> None:
        """Leave no sandbox and no thread behind. In a ``hurry`` this does not wait for threads that
        score or ask a teacher: they end when their work does."""
        pools = (self.steppers, self.graders)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self.turns.close(wait=False)
        for live in self.live:
            live.env.close()  # kills what runs in the sandbox, so that its thread comes back
        self.steppers.shutdown(wait=True)
        self.graders.shutdown(wait=not hurry or all(job.done() for job in self.grading))
        self.turns.close(wait=not hurry or not self.turns.busy)
        for live in self.live:
            live.env.close()  # a reset that was under way has made its sandbox by now


T = TypeVar("T")


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def _later(pause: float, call: Callable[[], T]) -> T:
    time.sleep(pause)
    return call()


def _reset(live: RunningEpisode) -> tuple[str, dict[str, Any]]:
    request = live.request
    return live.env.reset(seed=request.seed, options={"instance_id": request.task.instance_id})
