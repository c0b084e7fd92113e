"""``Rollout``: a policy plays tasks, and the episodes come back as they end.

    from swe_gym_env import Rollout, tasks

    run = Rollout(policy, sandbox="auto", max_turns=10, concurrency=32, store="episodes/")
    for episode in run(tasks.load("pypi", split="train", limit=64), repeats=4):
        print(episode.instance_id, episode.outcome.status, run.labels(episode))

With a ``store`` a script that was killed goes on where it stopped: stored episodes are returned
first, and only those are played that are missing or that an infrastructure error ended.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, get_args

from swe_gym_env import sandbox as sandboxes
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.adapt import as_policy
from swe_gym_env.policies.base import Policy
from swe_gym_env.rollout import history as histories
from swe_gym_env.rollout import settings
from swe_gym_env.rollout.driver import Progress
from swe_gym_env.rollout.mixers import Mixer, StudentOnly
from swe_gym_env.rollout.ray import Cluster
from swe_gym_env.rollout.resume import BACKENDS, backend, finished, resume
from swe_gym_env.rollout.running import Request
from swe_gym_env.rollout.store import Round, RoundFolder, in_order
from swe_gym_env.rollout.terminal import Line
from swe_gym_env.rollout.turns import LabelAt
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import Annotation, Episode, TaskInstance

# Arguments of SWEEnv with their defaults. Scoring runs beside the episodes, unlike in SWEEnv alone.
_ENV = {
    name: parameter.default
    for name, parameter in inspect.signature(SWEEnv.__init__).parameters.items()
    if name not in ("self", "tasks", "sandbox", "render_mode")
} | {"grade": "deferred"}


class Rollout:
    """Plays tasks with a policy, many at a time.

    The roll-out runs in separate threads while the caller works on the episodes that have ended.
    ``policy.act`` is called by one of them at a time; ``policy.submit``, if there is one, by many.
    Closing the iterator, leaving its loop or Ctrl-C stops the roll-out: no sandbox stays behind,
    what was stored is kept, and episodes that have ended but are not scored get ten seconds for it.
    A policy that is answering is waited for, ten seconds at most.

    Args:
        policy: Plays: an object with ``act(states)`` (see :class:`~swe_gym_env.Policy`), or a
            function from a state to the text of a turn, called for one state at a time. Its
            ``name``, and ``version`` if it has one, say in the store which policy played.
        teacher: Another policy, for ``mixer`` and ``label``.
        mixer: Decides turn by turn whether ``policy`` or ``teacher`` acts
            (``swe_gym_env/rollout/mixers.py``). None: ``policy`` takes all turns.
        label: Whether ``teacher`` says in every state what it would have done (:meth:`labels`).
            ``"end"`` asks it when the episode has ended, for one state after the other, so that a
            server's cache has each prompt's beginning; True or ``"turn"`` asks it in the turn.
        sandbox: ``auto``, another name, or a provider.
        store: A folder that keeps episodes and labels; None keeps those of the last call in memory.
            One folder holds the episodes of one configuration and one policy, any number of tasks.
        concurrency: Episodes in play at the same time.
        retries: How often an episode is played again after an infrastructure error. On Ray,
            ``cluster`` says it.
        max_faults: Consecutive infrastructure errors of one kind that end the roll-out.
        history: How many observations a policy sees, the newest; None: all.
        fixed_batches: Ask for the turns of all episodes at once, when all are ready, so that a
            model computes the same batches in every run. Slower.
        commands: Commands that run in sandboxes at the same time; None: two for each CPU.
        backend: ``local`` (this process) or ``ray`` (the machines of ``cluster``).
        cluster: Which Ray cluster; None starts one on this machine.
        progress: Called with a :class:`Progress` about every second. None shows a line on a
            terminal and nothing elsewhere.
        **env: Any other argument of :class:`~swe_gym_env.SWEEnv`: ``max_turns``, ``max_tokens``,
            ``max_seconds``, ``action_format``, ``tools``, ``command_timeout``, ``count_tokens``,
            ``grade="never"``, ...

    Raises:
        SetupError: An argument is wrong, or the sandbox does not work on this machine.
    """

    def __init__(
        self,
        policy: Any,
        *,
        teacher: Any = None,
        mixer: Mixer | None = None,
        label: bool | LabelAt = False,
        sandbox: str | SandboxProvider = "auto",
        store: str | Path | None = None,
        concurrency: int = 8,
        retries: int = 2,
        max_faults: int = 10,
        history: int | None = None,
        fixed_batches: bool = False,
        commands: int | None = None,
        backend: str = "local",
        cluster: Cluster | None = None,
        progress: Callable[[Progress], None] | None = None,
        **env: Any,
    ) -> None:
        self.policy = as_policy(policy, "policy")
        self.teacher = None if teacher is None else as_policy(teacher, "teacher")
        self.mixer = StudentOnly() if mixer is None else mixer
        if label not in (True, False, *get_args(LabelAt)):
            raise SetupError(f"label={label!r}: it is True, False, 'turn' or 'end'")
        self.label = bool(label)
        if not callable(getattr(self.mixer, "actor", None)):
            raise SetupError(f"mixer={mixer!r} is no mixer: it has no method `actor`")
        if self.teacher is None and (label or not isinstance(self.mixer, StudentOnly)):
            raise SetupError("a teacher is needed to act or to label: give `teacher`")
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
            ("max_faults", max_faults, 1),
        ):
            _check_count(name, value, least)
        histories.check(history)
        if backend not in BACKENDS:
            raise SetupError(f"backend={backend!r}: it is one of {', '.join(BACKENDS)}")
        if cluster is not None and backend != "ray":
            raise SetupError("a cluster is given, so backend='ray' is needed")
        self._env = _check_env(env)
        self._make_env = _EnvFactory(sandbox, self._env)
        if backend == "local":
            self._make_env.provider  # noqa: B018 - raises now where no sandbox works here
        self.store = None if store is None else RoundFolder(store)
        self._options: dict[str, Any] = {
            "concurrency": concurrency,
            "max_faults": max_faults,
            "history": history,
            "label_at": "end" if label == "end" else "turn",
            "fixed_batches": fixed_batches,
        }
        if backend == "local":
            self._options |= {"retries": retries, "commands": commands}
        self._backend, self._cluster = backend, cluster
        self._progress = progress
        self._episodes: list[Episode] = []  # of the last call, without a store
        self._labels: dict[str, list[Annotation]] = {}  # of the last call, by episode_id

    def __call__(
        self,
        tasks: Sequence[TaskInstance],
        *,
        repeats: int = 1,
        seed: int = 0,
        round: int = 0,
    ) -> Iterator[Episode]:
        """Play each of ``tasks`` ``repeats`` times. Yields stored episodes, then new ones.

        Args:
            tasks: Which tasks; all ids differ.
            repeats: Episodes of each task.
            seed: What the random choices of mixer and policies depend on.
            round: Another such number, for algorithms that train round by round.

        Raises:
            SetupError: Wrong arguments, at once. While episodes are yielded: the roll-out cannot go
                on, for a reason that only the user can fix.
        """
        _check_count("repeats", repeats, 1)
        tasks = _check_tasks(tasks)
        return self.play(
            [Request(task, seed, round, repeat) for task in tasks for repeat in range(repeats)]
        )

    def play(self, requests: Sequence[Request]) -> Iterator[Episode]:
        """The same for any episodes: a :class:`Request` names a task, seed, round and repeat."""
        if not requests:
            raise SetupError("there are no episodes to play")
        counts = Counter(request.episode_id for request in requests)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise SetupError(f"two requests have the same episode id: {twice[0]}")
        roll_out = backend(self._backend, self._cluster)
        tasks = list({request.task.instance_id: request.task for request in requests}.values())
        if self.store:
            settings.check(self.store.path, self.settings, tasks)
        return self._played(requests, tasks, roll_out)

    def labels(self, episode: Episode) -> list[Annotation]:
        """What the teacher would have done in the states of ``episode``, turn by turn. ``episode``
        is one that the last call has yielded."""
        return self._labels.get(episode.episode_id, [])

    def collected(self, index: int = 0) -> Round:
        """Everything that was played, as the round ``index`` that an algorithm learns from: of the
        store, or of the last call if there is none. SetupError if the store holds several rounds.
        """
        if self.store:
            found = self.store.read(index)
            if len(rounds := sorted({episode.round for episode in found.episodes})) > 1:
                raise SetupError(
                    f"{self.store.path} holds episodes of the rounds {rounds}: give each round its "
                    "own store"
                )
            return found
        labels = [label for labels in self._labels.values() for label in labels]
        return Round(index, sorted(self._episodes, key=lambda e: e.episode_id), labels)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the episodes depend on besides their tasks; kept in the store."""
        return {
            "policy": _identity(self.policy),
            "teacher": None if self.teacher is None else _identity(self.teacher),
            "mixer": repr(self.mixer),
            "label": self.label,
            "history": self._options["history"],
            **{name: _plain(value) for name, value in self._env.items() if name != "grade"},
            "graded": self._env["grade"] != "never",
        }

    def _played(
        self, requests: Sequence[Request], tasks: Sequence[TaskInstance], roll_out: Any
    ) -> Iterator[Episode]:
        self._episodes, self._labels = [], {}
        stored: list[Episode] = []
        with contextlib.ExitStack() as stack:
            if self.store:
                stack.enter_context(settings.locked(self.store.path))
                settings.check(self.store.path, self.settings, tasks)
                settings.record(self.store.path, self.settings, tasks)
                attempts = self.store.attempts()
                for label in self.store.annotations(attempts):
                    self._labels.setdefault(label.episode_id, []).append(label)
                stored = finished(in_order(attempts), requests)
                yield from stored
            show = self._progress or stack.enter_context(Line(sys.stderr))
            yield from self._in_background(requests, stored, roll_out, show)

    def _in_background(
        self,
        requests: Sequence[Request],
        stored: Sequence[Episode],
        roll_out: Any,
        show: Callable[[Progress], None],
    ) -> Iterator[Episode]:
        """Plays in a thread, which an exception of ``progress`` ends: as Ctrl-C does it there."""
        ended: SimpleQueue[Episode | BaseException | None] = SimpleQueue()
        stop = threading.Event()

        def on_episode(episode: Episode, labels: list[Annotation]) -> None:
            self._labels[episode.episode_id] = labels
            if not self.store:
                self._episodes.append(episode)
            ended.put(episode)

        def progress(now: Progress) -> None:
            if stop.is_set() or not threading.main_thread().is_alive():
                raise KeyboardInterrupt
            show(now)

        def drive() -> None:
            try:
                resume(
                    self.store,
                    requests,
                    roll_out,
                    stored=stored,
                    on_episode=on_episode,
                    progress=progress,
                    make_env=self._make_env,
                    student=self.policy,
                    teacher=self.teacher,
                    mixer=self.mixer,
                    annotate=self.label,
                    **self._options,
                )
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

        thread = threading.Thread(target=drive, name="rollout")
        thread.start()
        try:
            while (item := ended.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()


class _EnvFactory:
    """Makes the environment of each episode. On another machine the sandbox's name is looked up
    again."""

    def __init__(self, sandbox: str | SandboxProvider, options: Mapping[str, Any]) -> None:
        self._sandbox, self._options = sandbox, dict(options)

    @cached_property
    def provider(self) -> SandboxProvider:
        chosen = self._sandbox
        return sandboxes.provider(chosen) if isinstance(chosen, str) else chosen

    def __call__(self, task: TaskInstance) -> SWEEnv:
        return SWEEnv([task], sandbox=self.provider, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        return {"_sandbox": self._sandbox, "_options": self._options}


def _check_count(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise SetupError(f"{name}={value!r}: it is a whole number of at least {least}")


def _check_tasks(tasks: Any) -> list[TaskInstance]:
    if isinstance(tasks, (str, TaskInstance)):
        raise SetupError("tasks are a list of TaskInstance, e.g. swe_gym_env.tasks.load('pypi')")
    tasks = list(tasks)
    if not tasks:
        raise SetupError("there are no tasks to play: the list is empty")
    if wrong := [task for task in tasks if not isinstance(task, TaskInstance)]:
        raise SetupError(f"{str(wrong[0])[:100]!r} is no TaskInstance")
    counts = Counter(task.instance_id for task in tasks)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise SetupError(
            f"{len(twice)} tasks are there more than once, the first is {twice[0]}: to play tasks "
            "several times, give `repeats`"
        )
    return tasks


def _check_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of SWEEnv, defaults included."""
    if unknown := sorted(set(env) - set(_ENV)):
        mine = [name for name in inspect.signature(Rollout).parameters if name != "env"]
        raise SetupError(
            f"Rollout has no argument {', '.join(unknown)}: there are {', '.join([*mine, *_ENV])}"
        )
    options = {**_ENV, **env}
    for name, default in _ENV.items():
        value = options[name]
        if isinstance(default, (int, float)) and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0
        ):
            raise SetupError(f"{name}={value!r}: it is a number above 0")
    SWEEnv([], **options)  # refuses what it cannot use; nothing is started
    return options


def _identity(policy: Policy) -> str:
    version = str(getattr(policy, "version", "") or "")
    return f"{policy.name} {version}".rstrip()


def _plain(value: Any) -> Any:
    """As it can be stored: a function by its name, a list of tools as it is."""
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value
