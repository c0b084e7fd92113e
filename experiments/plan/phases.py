"""From a configuration to the phases of its run, as they will stand in phases.json, with their wall
time and what bounds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import simpy
from omegaconf import DictConfig

from algorithms.base import Algorithm, Scoring
from algorithms.objective import Objective
from experiments.config.algorithms import build_algorithm
from experiments.plan import known, memory, workload
from experiments.plan.engine import Engine, Used
from experiments.plan.epoch import epoch_seconds
from experiments.plan.hardware import (
    CPU,
    SERVER_START,
    STEP_OVERHEAD_HF,
    OnCPU,
    Roofline,
    gpu,
    this_cpu,
)
from experiments.plan.shapes import BF16, KNOWN, Shape
from experiments.plan.simulate import Machine, Make, Played, SandboxTimes, play_many, replicas
from experiments.plan.workload import Agent, Learned
from experiments.runs.naming import untrained_tasks
from swe_gym_env.rollout.mixers import Mixer, StudentOnly

AT_ONCE = 256  # answers of one vLLM replica: its default for max_num_seqs
ELSEWHERE = "Qwen/Qwen3-Coder-30B-A3B-Instruct"  # what a server of unknown size is planned as
SAMPLE = 3  # of a long phase so many times the episodes in flight are simulated, the rest follows


@dataclass
class Phase:
    """``bounds``: its seconds by what they are spent on."""

    name: str
    bounds: dict[str, float]
    episodes: int = 0
    turns: int = 0
    student: Used = field(default_factory=Used)
    teacher: Used = field(default_factory=Used)
    scored: int = 0  # tokens that the teacher scored
    trained: int = 0  # tokens, all epochs

    @property
    def seconds(self) -> float:
        return sum(self.bounds.values())

    @property
    def bound(self) -> str:
        return max(self.bounds, key=lambda name: self.bounds[name]) if self.bounds else ""


class Planner:
    """One configuration on ``gpus`` GPUs (0: this CPU). ``facts``: what a run that has been says
    about turns and tokens."""

    def __init__(self, cfg: DictConfig, gpus: int, facts: known.Facts | None = None) -> None:
        self.cfg, self.gpus, self.facts = cfg, gpus, facts or known.Facts()
        self.cpu: CPU = this_cpu(cfg.plan)
        self.given = workload.assumed(cfg)
        self.model: Shape = memory.student_shape(cfg)
        self.place = memory.placement(cfg, gpus)
        self.uses = {use.what: use for use in memory.uses(cfg, gpus)}
        self.served = bool(gpus) and cfg.serving.name != "hf"
        self._sample = SAMPLE
        self._evaluated: dict[tuple[Agent, known.Seen | None], Phase] = {}
        self.kept: list[workload.Played] = []  # rounds 0, 1, ... as algorithms look at them

    # -- the run -----------------------------------------------------------------------------

    def run(self, quick: bool = False) -> list[Phase]:
        """All phases in order. ``quick``: fewer episodes are simulated, and of the rounds of the
        algorithm only the first and the last; those between are taken to lie half way."""
        cfg, self._sample = self.cfg, 1 if quick else SAMPLE
        phases = [*self._tasks(), self.first()]
        phases += self.round(0, build_algorithm(cfg.iteration0.algorithm), cfg.iteration0)
        phases.append(self.evaluation("iteration0", self.given.student))
        algorithm, skipped = build_algorithm(cfg.algorithm), max(0, cfg.rounds - 2) if quick else 0
        ends: list[list[Phase]] = []
        for index in range(1, cfg.rounds + 1):
            if 1 < index <= 1 + skipped:
                self.kept.append(self.kept[-1])
                continue
            ends.append(self.round(index, algorithm, cfg.training))
            phases += ends[-1]
            if index == cfg.rounds or cfg.evaluation.every_round:
                phases.append(self.evaluation(f"round_{index:03d}", self.given.student))
        if skipped:
            first, last = ends
            phases += [
                _between(one, other, skipped) for one, other in zip(first, last, strict=True)
            ]
        return phases

    def first(self) -> Phase:
        """The untrained student; the libraries are loaded on the way."""
        count = untrained_tasks(self.cfg)
        phase = self.evaluation("untrained", self.given.untrained, count)
        return replace(phase, bounds={**phase.bounds, "start": self.cpu.start})

    def _tasks(self) -> list[Phase]:
        """Images to pull. What the other sources build is in the store after the first run."""
        if self.cfg.sandbox.name != "docker":
            return []
        seconds = self.images_gb() / self.cfg.plan.node.network_gb_s
        return [Phase("tasks", {"images": seconds})]

    def images_gb(self) -> float:
        return self.tasks() * self.cfg.plan.image_gb

    def tasks(self) -> int:
        """Different ones that are played."""
        cfg = self.cfg
        wanted = cfg.iteration0.episodes + cfg.rounds * cfg.episodes_per_round
        return min(wanted, cfg.tasks.train or wanted) + cfg.evaluation.tasks

    def evaluation(self, name: str, student: Agent, count: int | None = None) -> Phase:
        name = f"evaluate {name}"
        key = (student, self.facts.seen.get(name))
        if key not in self._evaluated:
            count = count or self.cfg.evaluation.tasks
            _, phase = self._play(name, StudentOnly(), 99, count, student)
            self._evaluated[key] = phase
        return replace(self._evaluated[key], name=name)

    def round(self, index: int, algorithm: Algorithm, training: DictConfig) -> list[Phase]:
        cfg, name = self.cfg, f"round_{index:03d}"
        plan = algorithm.collect(index)
        tasks = cfg.episodes_per_round if index else cfg.iteration0.episodes
        count = tasks * plan.repeats
        played, phase = self._play(
            f"collect {name}",
            plan.mixer,
            index,
            count,
            self.given.student,
            plan.annotate == "label",
            plan.repeats,
        )
        share = count / len(played.scripts)
        self.kept.append(played)
        phases = [phase]
        if algorithm.scoring is not None:
            phases.append(self._score(f"score {name}", algorithm.scoring, played, share))
        found = workload.learned(algorithm, plan, self.kept)
        phases.append(
            self._train(f"train {name}", found, share, training.epochs, algorithm.objective)
        )
        return phases

    # -- playing -----------------------------------------------------------------------------

    def _play(
        self,
        name: str,
        mixer: Mixer,
        round: int,
        count: int,
        student: Agent,
        annotate: bool = False,
        repeats: int = 1,
    ) -> tuple[workload.Played, Phase]:
        cfg = self.cfg
        sample = min(count, max(int(self._sample * cfg.workers.concurrency), 64))
        sample += -sample % repeats
        played = workload.episodes(
            cfg,
            mixer,
            round,
            sample,
            student,
            self.given,
            self.cpu.step,
            repeats,
            self.facts.seen.get(name),
        )
        machine = self.machine()
        done: Played = play_many(played.scripts, machine, annotate, count)
        bounds = done.waited
        acts = any(not led for script in played.scripts for led in script.led)
        if acts:
            bounds["weight sync"] = self._sync(round)
        phase = Phase(name, bounds, count, done.turns, done.student, done.teacher)
        if machine.teacher is None and machine.sandboxes.expert is not None:
            phase.teacher = Used()
        return played, phase

    def _sync(self, round: int) -> float:
        """Until the newest weights answer."""
        if not self.served:
            return self.cpu.load
        read = self.model.parameters * BF16 / 1e9 / self.cfg.plan.node.disk_gb_s
        return SERVER_START + read

    def machine(self) -> Machine:
        cfg, cpu = self.cfg, self.cpu
        cpus = cfg.plan.node.cpus if self.gpus else (os.cpu_count() or 1)
        sandboxes = SandboxTimes(
            cpu.reset,
            cpu.finish,
            cpu.grade,
            cpu.expert if cfg.teacher.name == "expert" else None,
            cpus,
        )
        shared = None if self.gpus else max(1, round(cpu.parallel))
        teacher = None if cfg.teacher.name == "expert" else self._teacher()
        return Machine(sandboxes, self._student(), teacher, shared, cfg.workers.concurrency)

    def _student(self) -> Make:
        if not self.served:
            return self._in_process(self.model)
        use = self.uses["student, serving"]
        speed = self._roofline(self.model, 1)
        return replicas(self.place.student, speed, AT_ONCE, memory.cache_tokens(use, self.model, 1))

    def _in_process(self, model: Shape) -> Make:
        """Our own loop: one batch after another, on one GPU or this CPU."""
        serving = self.cfg.serving
        tokens = serving.get("cache_gb", 2) * 2**30 / model.kv_bytes
        rows = serving.get("batch_size") or AT_ONCE
        if self.gpus:
            return replicas(
                1, self._roofline(model, 1, in_process=True), rows, tokens, continuous=False
            )
        speed = OnCPU(self.cpu)

        def make(env: simpy.Environment, processor: simpy.Resource | None) -> Sequence[Engine]:
            return [Engine(env, speed, rows, tokens, False, processor)]

        return make

    def _teacher(self) -> Make:
        cfg = self.cfg
        model = memory.teacher_shape(cfg)
        if cfg.teacher.name != "server":
            return self._in_process(model or self.model)
        model, place = model or KNOWN[ELSEWHERE], self.place
        count, tp = (place.teachers, place.teacher_tp) if place.teachers else (1, 4)
        use = self.uses.get("teacher") or memory.serving(
            model, tp, cfg.limits.max_tokens, "teacher", gpu(cfg.cluster.gpu), 0.9
        )
        rows = max(1, min(AT_ONCE, cfg.teacher.concurrency // count))
        speed = self._roofline(model, tp)
        return replicas(count, speed, rows, memory.cache_tokens(use, model, tp))

    def _roofline(self, model: Shape, tp: int, in_process: bool = False) -> Roofline:
        shares = self.cfg.plan.gpu
        overhead = STEP_OVERHEAD_HF if in_process else shares.step_overhead
        return Roofline(model, gpu(self.cfg.cluster.gpu), tp, shares, overhead)

    # -- scoring and training ----------------------------------------------------------------

    def _score(self, name: str, scoring: Scoring, played: workload.Played, share: float) -> Phase:
        """One episode after another in this process, each a single pass."""
        everyone = scoring.turns == "all"
        wanted = [s for s in played.scripts if everyone or not all(s.led)]
        if self.gpus:
            model = memory.teacher_shape(self.cfg) if scoring.scorer == "teacher" else None
            speed = self._roofline(model or self.model, 1, in_process=True)
            seconds = share * sum(speed.prefill(script.tokens, 0) for script in wanted)
        else:  # a pass of the trainer, forward alone
            seconds = share * sum(script.tokens for script in wanted) / (3 * self.cpu.train)
        tokens = sum(
            count
            for script in wanted
            for count, led in zip(script.taken, script.led, strict=True)
            if everyone or not led
        )
        bounds = {"scoring": seconds, "weight sync": self.cpu.load}
        teachers = scoring.scorer == "teacher"
        return Phase(name, bounds, scored=round(share * tokens) if teachers else 0)

    def _train(
        self, name: str, found: Learned, share: float, epochs: int, objective: Objective
    ) -> Phase:
        sizes = self.facts.trees(name, found.trees, share, epochs)
        tokens = epochs * sum(sizes)
        groups = max(1, round(found.groups * share)) if sizes else 0
        again = 1 / 3 / epochs if objective.truncation is not None else 0.0  # one forward more
        seconds = (
            epochs
            * (1 + again)
            * epoch_seconds(
                self.cfg, sizes, groups, self.cpu, self.place.student if self.gpus else 0
            )
        )
        bounds = {"training": seconds}
        if self.gpus:
            written = self.model.parameters * BF16 / 1e9 / self.cfg.plan.node.disk_gb_s
            bounds["weight sync"] = 2 * written  # read the last, write the next
        else:
            bounds["weight sync"] = self.cpu.load + self.cpu.save
        return Phase(name, bounds, trained=tokens)


def _between(one: Phase, other: Phase, count: int) -> Phase:
    """So many phases half way between two."""
    bounds = {
        name: (one.bounds.get(name, 0.0) + other.bounds.get(name, 0.0)) / 2 * count
        for name in one.bounds | other.bounds
    }
    return Phase(f"{count} between {one.name} and {other.name}", bounds)
