"""The roll-out driver plays many episodes at once and knows no algorithm.

Each episode goes its own way (``playing.py``), in a thread here or on another machine; the driver
only fills free slots, plays lost episodes again, and delivers what has ended. The mixer decides who
acts, and the caller decides what is learned. The content of an episode depends only on its request,
not on how many others run or which one ends first.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from queue import Empty, SimpleQueue

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import EngineError
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout import failures
from swe_gym_env.rollout import history as histories
from swe_gym_env.rollout.backend import Backend, Ended, Event, PlayEnded, TurnDone
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.local import LocalBackend
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.playing import LostEpisodeError
from swe_gym_env.rollout.running import Request
from swe_gym_env.rollout.turns import LabelAt
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance

__all__ = ["Progress", "Request", "rollout"]

log = logging.getLogger(__name__)

MOST_AHEAD = 64  # waiting episodes that are announced to a provider that starts sandboxes early
REPORT_SECONDS = 1.0  # longest time between two calls of `progress`
LEAST_SECONDS = 0.1  # shortest, unless an episode has ended its play
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
    label_at: LabelAt = "turn",
    learned: Callable[[Episode], bool] = lambda _: True,
    on_episode: OnEpisode,
    concurrency: int = 8,
    retries: int = 2,
    max_faults: int = 10,
    history: int | None = None,
    fixed_batches: bool = False,
    commands: int | None = None,
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
        student: Acts. Policies are asked from many threads: by ``submit`` if they have it, else by
            ``act`` for all states that wait (``policies/submit.py``).
        teacher: Acts where the mixer says so, and labels.
        mixer: Decides turn by turn who acts.
        annotate: Whether the teacher says in every state what it would have done.
        label_at: When it is asked for that: in the ``turn``, or at the ``end`` of the episode
            (``turns.py``).
        learned: With ``label_at="end"``: whether an episode is learned from, and so labeled at all.
        on_episode: Called with each episode and its labels.
        concurrency: Episodes in play at the same time.
        retries: Further attempts after an infrastructure error.
        max_faults: Consecutive infrastructure errors of one kind that end the roll-out
            (``circuit_breaker.py``).
        history: How many observations student and teacher see, the newest; None: all.
        fixed_batches: Ask for the turns of all episodes at once, when all are ready. This is
            slower, and repeats the batches of a model exactly (``asking.py``).
        commands: Commands that run in sandboxes at the same time; None: two for each CPU. Give
            more where sandboxes are on other machines.
        progress: Called about every second.

    Raises:
        SetupError: The roll-out cannot go on, for a reason that only the user can fix.
    """
    histories.check(history)
    breaker = CircuitBreaker(max_faults)
    backend = LocalBackend(
        make_env,
        student,
        teacher,
        mixer,
        annotate=annotate,
        label_at=label_at,
        learned=learned,
        concurrency=concurrency,
        breaker=breaker,
        history=history,
        fixed_batches=fixed_batches,
        commands=commands,
    )
    return Driver(backend, breaker, on_episode, retries, progress).run(requests, concurrency)


class Driver:
    """Fills slots, plays lost episodes again, delivers; the same for every back end."""

    def __init__(
        self,
        backend: Backend,
        breaker: CircuitBreaker,
        on_episode: OnEpisode,
        retries: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self.backend, self.breaker, self.retries = backend, breaker, retries
        self.on_episode, self.progress = on_episode, progress
        self.events: SimpleQueue[Event] = SimpleQueue()

    def run(self, requests: Sequence[Request], concurrency: int) -> Progress:
        """Raises ValueError if two requests share an id."""
        ids = [request.episode_id for request in requests]
        if len(set(ids)) < len(ids):
            raise ValueError(
                "two requests share one episode id: give them different repeats or seeds"
            )
        self.waiting = deque((request, 1) for request in requests)
        self.now = Progress(total=len(requests))
        self.playing = self.grading = self.freed = 0
        self.reported = 0.0
        try:
            while self.waiting or self.playing or self.grading:
                self._fill(concurrency)
                ended = self._take(self._pause())
                if ended or time.monotonic() - self.reported >= LEAST_SECONDS:
                    self.backend.look()
                    self._report()
            self._report()
        except KeyboardInterrupt:
            self._finish_grading()
            raise
        finally:
            self.backend.close()
        return self.now

    def _report(self) -> None:
        self.reported = time.monotonic()
        self.progress(replace(self.now, running=self.playing + self.grading))

    def _pause(self) -> float:
        """How long to wait for news."""
        pause = self.breaker.pause() if self.waiting else 0.0
        return min(pause or REPORT_SECONDS, REPORT_SECONDS)

    def _fill(self, concurrency: int) -> None:
        started = False
        while self.waiting and self.playing < concurrency and not self.breaker.pause():
            request, attempt = self.waiting.popleft()
            self.backend.start(request, attempt, self.events.put)
            self.playing, started = self.playing + 1, True
        if started:
            self.backend.upcoming([request for request, _ in islice(self.waiting, MOST_AHEAD)])
        while self.freed:
            self.freed -= 1
            self.backend.left()

    def _take(self, seconds: float) -> bool:
        """Handle the next event, and all that are there already; wait for one at most so long. But
        a free slot is filled before anything else is looked at. Whether a slot is free."""
        with suppress(Empty):
            event = self.events.get(timeout=seconds)
            while not self._handle(event):
                event = self.events.get_nowait()
            return True
        return False

    def _handle(self, event: Event) -> bool:
        """Whether a slot has become free."""
        if isinstance(event, TurnDone):
            self.now = replace(self.now, turns=self.now.turns + 1)
            return False
        if isinstance(event, PlayEnded):
            self.grading += 1
            self._free_slot()
            return True
        if event.slot:
            self._free_slot()
        else:
            self.grading -= 1
        self.now = replace(self.now, turns=self.now.turns + event.turns)
        self._ended(event)
        return event.slot

    def _free_slot(self) -> None:
        self.playing, self.freed = self.playing - 1, self.freed + 1

    def _ended(self, event: Ended) -> None:
        result = event.result
        if isinstance(result, LostEpisodeError):
            self._lost(event, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            episode, labels = result
            self._deliver(episode, labels)
            cause, message = failures.cause_of(episode.outcome)
            if cause:
                self.breaker.add(cause, message, event.began)

    def _lost(self, event: Ended, lost: LostEpisodeError) -> None:
        """Play it again unless its attempts are used up; an engine outage uses none."""
        name, charged = event.request.episode_id, lost.cause != EngineError.cause
        if charged and event.attempt > self.retries:
            log.warning("%s: given up after %d attempts: %s", name, event.attempt, lost.message)
            self._deliver(*lost.played)
        else:
            level = logging.WARNING if charged else logging.DEBUG  # the circuit breaker logs it
            log.log(level, "%s: attempt %d lost, again: %s", name, event.attempt, lost.message)
            self.waiting.appendleft((event.request, event.attempt + charged))
        self.breaker.add(lost.cause, lost.message, event.began)

    def _deliver(self, episode: Episode, labels: list[Annotation]) -> None:
        if episode.outcome.status != failures.INFRA:
            self.breaker.success()
        self.now = self.now.with_episode(episode.outcome)
        self.on_episode(episode, labels)

    def _finish_grading(self) -> None:
        """What has ended gets some seconds to be scored and delivered."""
        self.backend.hurry()
        end = time.monotonic() + LAST_SECONDS
        while self.grading and (left := end - time.monotonic()) > 0:
            with suppress(Empty):
                event = self.events.get(timeout=left)
                if isinstance(event, PlayEnded):
                    self.grading += 1
                elif isinstance(event, Ended) and not event.slot:
                    self.grading -= 1
                    if isinstance(event.result, tuple):
                        self._deliver(*event.result)
