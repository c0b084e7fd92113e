"""The roll-out of swe_gym_env/rollout/, simulated event by event.

Each slot plays one episode after the other: reset, then for each turn the answer of who acts and
the command. Grading, and labels of turns that the teacher did not execute, go on beside it. The
time of the slots is divided by what their episodes waited for, and so are the seconds of the whole.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import simpy

from experiments.plan.engine import Engine, Process, Used, busy
from experiments.plan.hardware import Speed
from swe_gym_env.rollout.playing import COMMANDS_PER_CPU

NO_EPISODE = "the last episodes"  # what a slot waits for that has none left


@dataclass(frozen=True)
class Script:
    """What happens in one episode, a list entry for each turn: tokens seen before it, tokens of the
    turn, whether the teacher executes it, tokens of the teacher's turn, CPU seconds of the
    command; and whether there is a patch to grade in the end."""

    observed: tuple[int, ...]
    taken: tuple[int, ...]
    led: tuple[bool, ...]
    labels: tuple[int, ...]
    steps: tuple[float, ...]
    graded: bool = True

    @property
    def tokens(self) -> int:
        return sum(self.observed) + sum(self.taken)


@dataclass(frozen=True)
class SandboxTimes:
    """CPU seconds of a sandbox's life beside the turns, and of the built-in teacher for one turn
    (None: the teacher is a model). ``cpus`` are those that run commands."""

    reset: float
    finish: float
    grade: float
    expert: float | None
    cpus: int


Make = Callable[[simpy.Environment, simpy.Resource | None], Sequence[Engine]]


def replicas(
    count: int, speed: Speed, rows: int, cache_tokens: float, continuous: bool = True
) -> Make:
    def make(env: simpy.Environment, _: simpy.Resource | None) -> Sequence[Engine]:
        return [Engine(env, speed, rows, cache_tokens, continuous) for _ in range(count)]

    return make


@dataclass(frozen=True)
class Machine:
    """What plays the episodes. ``student`` and ``teacher`` make their engines. ``shared``: how many
    things the one processor does at full speed that sandboxes and models share; None: models have
    GPUs."""

    sandboxes: SandboxTimes
    student: Make
    teacher: Make | None
    shared: int | None
    concurrency: int


@dataclass
class Played:
    """``waited``: seconds by what the episodes waited for; they add up to ``seconds``."""

    seconds: float = 0.0
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    student: Used = field(default_factory=Used)
    teacher: Used = field(default_factory=Used)
    turns: int = 0
    episodes: int = 0


def _scaled(used: Used, factor: float) -> Used:
    return Used(
        used.prefill * factor,
        used.decode * factor,
        round(used.prompt * factor),
        round(used.computed * factor),
        round(used.generated * factor),
    )


@dataclass
class _Ended:
    """What had happened when an episode ended."""

    now: float
    spent: dict[str, float]


class _Loop:
    def __init__(self, scripts: Sequence[Script], machine: Machine, annotate: bool) -> None:
        self.env = env = simpy.Environment()
        self.machine, self.annotate = machine, annotate
        self.processor = simpy.Resource(env, machine.shared) if machine.shared else None
        sandboxes, many = machine.sandboxes, machine.concurrency
        self.commands = simpy.Resource(env, max(1, min(many, COMMANDS_PER_CPU * sandboxes.cpus)))
        self.graders = simpy.Resource(env, max(1, min(many, sandboxes.cpus)))
        self.student = list(machine.student(env, self.processor))
        self.teacher = list(machine.teacher(env, self.processor)) if machine.teacher else []
        self.waiting = deque(enumerate(scripts))
        self.slots = min(many, len(scripts))
        self.beside: list[simpy.Event] = []  # grading and labels
        self.spent: dict[str, float] = defaultdict(float)  # time of the slots
        self.ended: list[_Ended] = []
        self.played = Played(episodes=len(scripts))

    def run(self) -> Played:
        env = self.env
        slots = [env.process(self._slot()) for _ in range(self.slots)]
        env.run(simpy.AllOf(env, slots))
        played = env.now
        env.run(simpy.AllOf(env, self.beside))
        for engines, name in ((self.student, "student"), (self.teacher, "teacher")):
            setattr(self.played, name, _together(engines))
        self.played.seconds = env.now
        self.played.waited = self.parts(played, self.spent)
        if env.now > played:
            self.played.waited["grading"] = env.now - played
        return self.played

    def parts(self, seconds: float, spent: Mapping[str, float]) -> dict[str, float]:
        """``seconds`` of all slots by what their episodes waited for. Time that went to a model is
        divided as its engines divided theirs."""
        found: dict[str, float] = {}
        for name, slot_seconds in spent.items():
            share = slot_seconds / self.slots
            engines = {"student": self.student, "teacher": self.teacher}.get(name)
            if engines is None:
                found[name] = share
                continue
            used = _together(engines)
            prefill = used.prefill / ((used.prefill + used.decode) or 1.0)
            found[f"prefill ({name})"] = share * prefill
            found[f"decode ({name})"] = share * (1 - prefill)
        if (idle := seconds - sum(found.values())) > 1e-6 * seconds:
            found[NO_EPISODE] = idle
        return found

    def _slot(self) -> Process:
        while self.waiting:
            number, script = self.waiting.popleft()
            yield from self._episode(number, script)
            self.ended.append(_Ended(self.env.now, dict(self.spent)))
            grade = self.machine.sandboxes.grade if script.graded else 0.0
            self.beside.append(self.env.process(self._work(self.graders, grade)))

    def _episode(self, number: int, script: Script) -> Process:
        sandboxes, history = self.machine.sandboxes, 0
        yield from self._timed("sandboxes", self._work(self.commands, sandboxes.reset))
        for turn, generated in enumerate(script.taken):
            prompt, led = history + script.observed[turn], script.led[turn]
            if led or (self.annotate and not self.teacher):
                yield from self._label(number, prompt, script.labels[turn])
            elif self.annotate:
                self.beside.append(self._ask(self.teacher, number, prompt, script.labels[turn]))
            if not led:
                asked = self._ask(self.student, number, prompt, generated)
                yield from self._timed("student", _until(asked))
            history = prompt + generated
            finish = sandboxes.finish if turn + 1 == len(script.taken) else 0.0
            work = self._work(self.commands, script.steps[turn] + finish)
            yield from self._timed("sandboxes", work)
            self.played.turns += 1

    def _label(self, number: int, prompt: int, generate: int) -> Process:
        if self.teacher:
            asked = self._ask(self.teacher, number, prompt, generate)
            yield from self._timed("teacher", _until(asked))
        else:
            expert = self.machine.sandboxes.expert or 0.0
            yield from self._timed("labels", self._work(self.commands, expert))

    def _timed(self, name: str, process: Process) -> Process:
        began = self.env.now
        yield from process
        self.spent[name] += self.env.now - began

    def _work(self, pool: simpy.Resource, seconds: float) -> Process:
        with pool.request() as thread:
            yield thread
            yield from busy(self.env, self.processor, seconds)

    @staticmethod
    def _ask(engines: Sequence[Engine], number: int, prompt: int, generate: int) -> simpy.Event:
        return engines[number % len(engines)].ask(number, prompt, generate)


def _until(event: simpy.Event) -> Process:
    yield event


def _together(engines: Sequence[Engine]) -> Used:
    parts = [engine.used for engine in engines]
    return Used(
        sum(p.prefill for p in parts),
        sum(p.decode for p in parts),
        sum(p.prompt for p in parts),
        sum(p.computed for p in parts),
        sum(p.generated for p in parts),
    )


def play(scripts: Sequence[Script], machine: Machine, annotate: bool) -> Played:
    """Play every script. ``annotate``: the teacher is asked in every state, not only where it
    acts."""
    return _Loop(scripts, machine, annotate).run()


def play_many(scripts: Sequence[Script], machine: Machine, annotate: bool, count: int) -> Played:
    """As :func:`play`, for ``count`` episodes of which ``scripts`` are the first: what came between
    a quarter and three quarters of their ends is taken to go on."""
    loop = _Loop(scripts, machine, annotate)
    whole = loop.run()
    if count <= len(scripts):
        return whole
    first, last = loop.ended[len(scripts) // 4], loop.ended[3 * len(scripts) // 4]
    more = (count - len(scripts)) / (3 * len(scripts) // 4 - len(scripts) // 4)
    size = count / len(scripts)
    between = {name: seconds - first.spent.get(name, 0.0) for name, seconds in last.spent.items()}
    added = loop.parts(last.now - first.now, between)
    return Played(
        whole.seconds + more * (last.now - first.now),
        {
            name: whole.waited.get(name, 0.0) + more * added.get(name, 0.0)
            for name in {**whole.waited, **added}
        },
        _scaled(whole.student, size),
        _scaled(whole.teacher, size),
        round(whole.turns * size),
        count,
    )
