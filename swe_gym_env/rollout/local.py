"""The back end of this process: a thread for each episode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout.asking import Asking, FixedBatches, Freely
from swe_gym_env.rollout.backend import Ended, PlayEnded, Post, TurnDone
from swe_gym_env.rollout.circuit_breaker import CircuitBreaker
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.playing import LostEpisodeError, Played, Player, limits
from swe_gym_env.rollout.running import Request, RunningEpisode
from swe_gym_env.rollout.turns import LabelAt, TurnCollector
from swe_gym_env.sandbox.base import SandboxSpec
from swe_gym_env.types import Episode, TaskInstance

CLOSE_SECONDS = 10.0  # in a hurry, for threads that grade or wait for an answer


class LocalBackend:
    """Its arguments are those of :func:`swe_gym_env.rollout.driver.rollout`."""

    def __init__(
        self,
        make_env: Callable[[TaskInstance], SWEEnv],
        student: Policy,
        teacher: Policy | None,
        mixer: Mixer,
        *,
        annotate: bool,
        label_at: LabelAt,
        learned: Callable[[Episode], bool],
        concurrency: int,
        breaker: CircuitBreaker,
        history: int | None,
        fixed_batches: bool,
        commands: int | None,
    ) -> None:
        self._make_env, self._history = make_env, history
        in_sandboxes, graders = limits(concurrency, commands)
        policies = [student] if teacher is None else [student, teacher]
        self._asking: Asking = Freely(policies, in_sandboxes)
        if fixed_batches:
            self._asking = FixedBatches(not all(policy.needs_sandbox for policy in policies))
        self._stopping, self._hurry = threading.Event(), False
        turns = TurnCollector(self._asking, student, teacher, mixer, annotate, label_at, learned)
        self._player = Player(turns, breaker, in_sandboxes, graders, self._stopping)
        self._live: dict[threading.Thread, RunningEpisode] = {}
        self._started = 0
        self._gone: SimpleQueue[int] = SimpleQueue()  # numbers of episodes that play no longer

    def play(self, request: Request, attempt: int) -> Played:
        """One episode in the calling thread. Raises what :meth:`Player.play` raises."""
        return self._player.play(self._episode(request, attempt))

    def _episode(self, request: Request, attempt: int) -> RunningEpisode:
        env = self._make_env(request.task)
        self._started += 1
        return RunningEpisode(request, env, attempt, self._history, self._started)

    def start(self, request: Request, attempt: int, post: Post) -> None:
        live = self._episode(request, attempt)
        self._asking.join(live.order)
        thread = threading.Thread(target=self._play, args=(live, post), name="episode", daemon=True)
        self._live[thread] = self._newest = live
        thread.start()

    def _play(self, live: RunningEpisode, post: Post) -> None:
        plays = True

        def on_end() -> None:
            nonlocal plays
            plays = False
            self._gone.put(live.order)
            post(PlayEnded())

        result: Played | LostEpisodeError | BaseException
        try:
            result = self._player.play(live, lambda: post(TurnDone()), on_end)
        except BaseException as error:
            result = error
        if plays:
            self._gone.put(live.order)
        post(Ended(live.request, live.attempt, result, live.began, slot=plays))
        self._live.pop(threading.current_thread(), None)

    def upcoming(self, requests: Sequence[Request]) -> None:
        if prefetch := getattr(self._newest.env.provider, "prefetch", None):
            prefetch([SandboxSpec.of(request.task) for request in requests])

    def left(self) -> None:
        self._asking.leave(self._gone.get())

    def look(self) -> None: ...

    def hurry(self) -> None:
        self._hurry = True

    def close(self) -> None:
        """In a hurry this does not wait long for threads that grade or wait for an answer."""
        self._stopping.set()
        self._asking.close()
        left = list(self._live.items())
        for _, live in left:
            live.env.close()  # kills what runs in the sandbox, so that its thread comes back
        end = time.monotonic() + CLOSE_SECONDS
        for thread, live in left:
            thread.join(max(0.0, end - time.monotonic()) if self._hurry else None)
            live.env.close()  # a reset that was under way has made its sandbox by now
