"""One round: let the algorithm's choice of actors play, then train on what it makes of that.

Both halves can be killed at any time: episodes are kept one by one, a checkpoint is there whole or
not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from algorithms.base import Algorithm
from algorithms.engine.rounds import RoundFolder
from experiments import metrics
from experiments.build import Parts
from experiments.play import play
from experiments.progress import Display
from swe_gym_env.agents.mixers import Mixer, StudentOnly, TeacherOnly
from swe_gym_env.agents.rollout import Request


def collect(
    parts: Parts,
    algorithm: Algorithm,
    folder: RoundFolder,
    index: int,
    requests: Sequence[Request],
    checkpoint: Path | None,
    display: Display,
) -> None:
    """Leaves episodes.jsonl, annotations.jsonl and metrics.json in the round's folder."""
    if folder.is_done("collect"):
        return
    plan = algorithm.collect(index)
    repeated = [
        replace(request, repeat=request.repeat * plan.repeats + repeat)
        for request in requests
        for repeat in range(plan.repeats)
    ]
    play(
        folder,
        repeated,
        parts,
        display=display,
        title=f"round {index}: collect",
        student=parts.student(checkpoint, greedy=False),
        mixer=plan.mixer,
        annotate=plan.annotate == "label",
    )
    folder.add_metrics(
        round=index,
        planned_teacher_share=planned_share(plan.mixer),
        **metrics.of_round(folder.episodes(), folder.annotations()),
    )
    folder.mark_done("collect")


def planned_share(mixer: Mixer) -> float | None:
    """What share of the turns the teacher is meant to take; None where no number says it."""
    fixed = {StudentOnly: 0.0, TeacherOnly: 1.0}
    return getattr(mixer, "beta", fixed.get(type(mixer)))


def train(
    parts: Parts,
    algorithm: Algorithm,
    folders: Sequence[RoundFolder],
    checkpoint: Path | None,
    epochs: int,
    lr: float,
    display: Display,
) -> None:
    """From ``checkpoint`` to ``checkpoint/`` in the last of ``folders`` (rounds 0, 1, ...)."""
    own = folders[-1]
    if own.is_done("train"):
        return
    from algorithms.engine.checkpoint import load_model, load_tokenizer
    from algorithms.engine.learner import Learner
    from algorithms.engine.rendering import Renderer
    from algorithms.engine.tree import lesson_tree

    start = checkpoint or parts.start
    tokenizer = load_tokenizer(start)
    rounds = [folder.read(index) for index, folder in enumerate(folders)]
    renderer = Renderer(tokenizer)
    trees = [lesson_tree(lesson, renderer) for lesson in algorithm.lessons(rounds)]
    samples = [tree for tree in trees if tree is not None]
    learner = Learner(
        load_model(start, parts.dtype), tokenizer, replace(parts.training, epochs=epochs, lr=lr)
    )
    total = epochs * sum(len(sample) for sample in samples)
    with display.phase(f"round {len(folders) - 1}: train", total) as advance:
        before = 0

        def progress(done: int, _: int, message: str) -> None:
            nonlocal before
            advance(done - before, message.rsplit(",", 1)[0])
            before = done

        report = learner.train(samples, progress)
    own.add_metrics(
        losses=report.loss,
        accuracies=report.accuracy,
        grad_norms=report.grad_norm,
        trees=report.trees,
        trees_dropped=report.dropped,
        trained_tokens=report.tokens,
        label_tokens=report.label_tokens,
        train_seconds=round(report.seconds, 1),
        tokens_per_second=round(report.tokens_per_second, 1),
    )
    learner.save(own.checkpoint)
    own.mark_done("train")
