"""Measures this machine: how fast the student answers and learns, and what sandboxes cost.

Real parts only: the model in the policy that plays, the trainer that trains, episodes of the
built-in expert. Wall time, so other programs should not run beside it. Precision and threads are
those that a run would take (``experiments/pipeline/precision.py``), and stand beside the figures.
"""

from __future__ import annotations

import importlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.console.progress import Display
from experiments.pipeline.build import RunContext
from experiments.pipeline.environments import EnvFactory
from experiments.pipeline.student import Student
from experiments.pipeline.tasks import select
from experiments.plan.hardware import calibration_file
from swe_gym_env.disk import write_json
from swe_gym_env.policies.base import State
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import TeacherOnly
from swe_gym_env.types import Episode, Outcome, TaskInstance, Turn

if TYPE_CHECKING:
    import torch

    from algorithms.engine.learner import TrainingConfig
    from algorithms.engine.rendering import Renderer
    from algorithms.engine.tree import TokenTree

BATCHES = (1, 8, 32)
STEPS = 7  # decoding steps of one measurement
EPISODES = 5
WORDS = "The function returns the wrong value when its argument is negative; see the report. "


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> float:
    began = clock()
    call()
    return clock() - began


def calibrate(cfg: DictConfig, display: Display) -> Path:
    """Leaves the figures where later plans find them; the run's own settings (model, threads,
    training) are measured."""
    context = RunContext(cfg)
    student = context.student
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "answers": lambda: _answers(student),
        "learning": lambda: learning(
            student.start, student.dtype, student.renderer, context.training
        ),
        "sandboxes": lambda: _sandboxes(cfg, context.make_env, display),
    }
    found: dict[str, Any] = {}
    with display.phase("calibrate", len(measures)) as advance:
        for name, measure in measures.items():
            found |= measure()
            advance(1, name)
    write_json(calibration_file(cfg.plan), found)
    for name, value in found.items():
        display.console.print(f"  {name}: {_shown(value)}")
    display.console.print(f"calibration: {calibration_file(cfg.plan)}")
    return calibration_file(cfg.plan)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    return value if isinstance(value, str) else f"{value:.3g}"


def _answers(student: Student) -> dict[str, Any]:
    """Libraries, and what :func:`answering` finds, in the precision and on the threads of a run."""
    start = timed(lambda: importlib.import_module("algorithms.engine.learner"))
    dtype = student.dtype  # sets the number of threads
    decided = {"dtype": student.precision, "threads": student.threads}
    return {**decided, "start": start, **answering(student.start, dtype)}


def answering(
    model: Path, dtype: torch.dtype, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Seconds to load the model, prefilled tokens a second, and the seconds of one decoding step by
    the number of rows."""
    from algorithms.engine.hf_policy import HFPolicy

    made: list[HFPolicy] = []
    whole = max(BATCHES)
    load = timed(lambda: made.append(HFPolicy.from_folder(model, dtype, batch_size=whole)), clock)
    policy = made[0]
    policy.stop_ids = set()  # so that every answer has the length asked for
    decode: dict[str, float] = {}
    prefill: list[float] = []

    def answer(batch: int, tokens: int) -> float:
        policy.max_new_tokens = tokens
        states = [_state(WORDS * 6, number, batch) for number in range(batch)]
        return timed(lambda: policy.act(states), clock)

    answer(2, 2)
    for batch in BATCHES:
        before = policy.prefilled_tokens
        first = answer(batch, 1)
        if batch > 1:
            prefill.append((policy.prefilled_tokens - before) / first)
        more = answer(batch, 1 + STEPS)  # its prompts are in the prefix store by now
        decode[str(batch)] = more / (1 + STEPS)
    return {"load": load, "prefill": statistics.median(prefill), "decode": decode}


def _state(words: str, number: int, salt: int) -> State:
    task = TaskInstance(f"calibration-{number}", "", "", "", words, "", "", (), (), "")
    key = (0, salt, task.instance_id, 0, 0, "student")
    return State(key, task, "You fix programs.", (), f"{number} {words}")


def learning(
    model: Path,
    dtype: torch.dtype,
    renderer: Renderer,
    training: TrainingConfig,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Trained tokens a second, and the seconds of a step of the optimizer and of saving."""
    from algorithms.engine.checkpoint import load_model
    from algorithms.engine.learner import Learner
    from algorithms.engine.optimizer import MasterAdamW

    config = replace(training, epochs=1)
    trees = _trees(renderer, 2 * config.batch_size, config.max_tree_tokens)
    learner = Learner(load_model(model, dtype), renderer.tokenizer, config)
    optimizer = MasterAdamW(learner.model.parameters(), 0.0)
    optimizer.step()
    update = timed(optimizer.step, clock)
    del optimizer
    learner.train(trees[:1], lambda *_: None)  # without a bar
    took = timed(lambda: learner.train(trees, lambda *_: None), clock)
    with tempfile.TemporaryDirectory() as folder:
        save = timed(lambda: learner.save(Path(folder) / "model"), clock)
    tokens, steps = sum(map(len, trees)), math.ceil(len(trees) / config.batch_size)
    rest = max(0.2 * took, took - steps * update)
    return {"train": tokens / rest, "update": update, "save": save}


def _trees(renderer: Renderer, count: int, most: int) -> list[TokenTree]:
    from algorithms.base import Target, TrainingExample
    from algorithms.engine.examples import example_trees

    examples = []
    for number in range(count):
        turns = tuple(
            Turn(f"{number} {WORDS * (8 if turn == 0 else 1)}", "teacher", WORDS)
            for turn in range(4)
        )
        outcome = Outcome("resolved", 1.0)
        episode = Episode(str(number), "t", 0, 0, 0, WORDS, turns, outcome, "finished")
        examples.append(TrainingExample(episode, tuple(Target(turn, None) for turn in range(4))))
    return list(example_trees(examples, renderer, most))


def _sandboxes(cfg: DictConfig, make_env: EnvFactory, display: Display) -> dict[str, Any]:
    """What the expert's episodes cost, one after another and side by side."""
    cfg = cfg.copy()
    cfg.evaluation.tasks = 0
    tasks = select(cfg, None, display).train[:EPISODES]
    played: list[Episode] = []

    def play(repeat: int, concurrency: int) -> Callable[[], Any]:
        return lambda: rollout(
            [Request(task, 0, 0, repeat) for task in tasks],
            make_env=make_env,
            student=ExpertPolicy(),
            teacher=ExpertPolicy(),
            mixer=TeacherOnly(),
            annotate=False,
            on_episode=lambda episode, _: played.append(episode),
            concurrency=concurrency,
        )

    play(0, len(tasks))()  # the first sandbox in an image looks for later history
    played.clear()
    alone = timed(play(1, 1))
    episodes = list(played)
    together = timed(play(2, len(tasks)))
    parallel = max(1.0, min(os.cpu_count() or 1, alone / together))
    shares = _shares(episodes)
    whole = sum(seconds * count for seconds, count in shares.values())
    # what one item takes of a busy machine, scaled so that the sum is the measured time
    scale = together * max(1, round(parallel)) / whole
    return {
        "parallel": parallel,
        **{name: seconds * scale for name, (seconds, _) in shares.items()},
    }


def _shares(episodes: Iterable[Episode]) -> dict[str, tuple[float, int]]:
    """Mean wall seconds of each kind of work, and how often it came."""
    listed = list(episodes)
    turns = [turn for episode in listed for turn in episode.turns]
    costs = [episode.metadata["costs"] for episode in listed]

    def mean(name: str) -> float:
        return statistics.fmean(cost.get(name, 0.0) for cost in costs)

    diff = mean("diff")
    step = sum(turn.step_seconds for turn in turns) - diff * len(listed)
    return {
        "reset": (mean("start"), len(listed)),
        "step": (max(0.0, step) / len(turns), len(turns)),
        "finish": (diff, len(listed)),
        "grade": (mean("grade"), len(listed)),
        "expert": (statistics.fmean(turn.act_seconds for turn in turns), len(turns)),
    }
