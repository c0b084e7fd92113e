"""What lies in the memory of each GPU, and whether it fits.

Collecting and training take turns, so a student's GPU must hold the larger of the two. Training is
sharded over all of the student's GPUs (FSDP2), serving is one replica on each, the teacher is
shared out by tensor parallelism.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from experiments.plan.hardware import GPU, RESERVE, gpu
from experiments.plan.shapes import BF16, Shape, shape
from swe_gym_env.errors import SetupError

FP32 = 4
LOGITS = (
    1024  # rows of logits alive at once: CHUNK in algorithms/engine/losses.py, which needs torch
)
GIB = 2**30


@dataclass(frozen=True)
class Placement:
    """How many GPUs do what. ``teachers`` replicas of the teacher on ``teacher_tp`` GPUs each."""

    student: int
    teachers: int = 0
    teacher_tp: int = 1

    @property
    def gpus(self) -> int:
        return self.student + self.teachers * self.teacher_tp


@dataclass(frozen=True)
class Use:
    """Bytes on each GPU of one kind, by what they are for. ``room`` is what may be used of it."""

    what: str
    parts: dict[str, float]
    room: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def short(self) -> float:
        """Bytes that are missing; 0 if it fits."""
        return max(0.0, self.total - self.room)


def student_shape(cfg: DictConfig) -> Shape:
    found = shape(cfg.model.path)
    if found is None:
        raise SetupError(
            f"model.path={cfg.model.path} is neither a folder with a config.json nor a model whose "
            "size is known here: fetch its config.json and give its folder as model.path"
        )
    return found


def teacher_shape(cfg: DictConfig) -> Shape | None:
    """None where the teacher is no model, or one that others run and whose size we do not know."""
    kind = cfg.teacher.name
    if kind == "server":
        return shape(cfg.teacher.model)
    if kind == "hf":
        return shape(cfg.teacher.path or "")
    return student_shape(cfg) if kind != "expert" else None


def placement(cfg: DictConfig, gpus: int) -> Placement:
    """As published: half of the GPUs for the teacher, by four where there are so many. A teacher in
    the student's process, the expert, and one whose size is unknown take none."""
    if cfg.teacher.name != "server" or teacher_shape(cfg) is None:
        return Placement(gpus)
    wanted = cfg.plan.teacher_gpus if cfg.plan.teacher_gpus is not None else gpus // 2
    wanted = min(wanted, gpus - 1) if gpus else 0
    if wanted < 1:
        return Placement(gpus)
    tp = min(4, 2 ** int(math.log2(wanted)))
    return Placement(gpus - wanted // tp * tp, wanted // tp, tp)


def longest_tree(cfg: DictConfig) -> int:
    """Tokens of the longest episode that may come, with the teacher's turn as a branch in each
    state."""
    plan, limits = cfg.plan, cfg.limits
    generated = min(plan.student.generated, cfg.sampling.max_new_tokens)
    turns = min(limits.max_turns, max(1.0, limits.max_tokens / (generated + plan.observed)))
    with_labels = limits.max_tokens + turns * plan.teacher.generated
    return int(min(cfg.training.max_tree_tokens, with_labels))


def layer_activations(model: Shape) -> int:
    """Bytes that one token leaves in one layer for the backward: the MLP's four inner vectors,
    three times queries and keys and values, and norms, which work in float32."""
    inner = model.inner * model.active_experts
    halves = 4 * inner + 3 * model.queries + 3 * model.keys + 3 * model.hidden
    return BF16 * halves + 2 * FP32 * model.hidden


def activations(model: Shape, tokens: int, checkpointing: bool) -> float:
    """Bytes for the backward through one tree."""
    logits = LOGITS * model.vocabulary * (BF16 + 2 * FP32)
    one = tokens * layer_activations(model)
    if not checkpointing:
        return model.layers * one + logits
    return model.layers * tokens * model.hidden * BF16 + one + logits


def training(cfg: DictConfig, gpus: int, chip: GPU) -> Use:
    model, rank = student_shape(cfg), cfg.training.lora_rank
    trained = model.lora(rank) if rank else model.parameters
    whole = model.layer(model.experts) * 2 + model.embedding  # gathered for the layer at work
    return Use(
        "student, training",
        {
            "weights": model.parameters * BF16 / gpus + (whole * BF16 if gpus > 1 else 0),
            "masters": trained * FP32 / gpus,
            "moments": 2 * trained * FP32 / gpus,
            "gradients": trained * FP32 / gpus + whole * BF16,
            "activations": activations(model, longest_tree(cfg), cfg.training.checkpointing),
        },
        chip.memory * (1 - RESERVE),
    )


def serving(model: Shape, tp: int, context: int, what: str, chip: GPU, share: float) -> Use:
    """What does not go to weights goes to keys and values; one whole context must have room."""
    weights = model.parameters * BF16 / tp
    room = chip.memory * share
    working = 0.5 * GIB + LOGITS * model.vocabulary * FP32 / tp
    cache = max(room - weights - working, context * model.kv_bytes / tp)
    return Use(what, {"weights": weights, "KV cache": cache, "activations": working}, room)


def cache_tokens(use: Use, model: Shape, tp: int) -> float:
    return use.parts["KV cache"] * tp / model.kv_bytes


def uses(cfg: DictConfig, gpus: int) -> list[Use]:
    """Of each kind of GPU. Empty without GPUs."""
    if not gpus:
        return []
    chip, place, share = gpu(cfg.cluster.gpu), placement(cfg, gpus), cfg.plan.gpu.memory_share
    context = cfg.serving.get("max_context") or cfg.limits.max_tokens
    model = student_shape(cfg)
    found = [
        training(cfg, place.student, chip),
        serving(model, 1, context, "student, serving", chip, share),
    ]
    teacher = teacher_shape(cfg)
    if teacher is not None and place.teachers:
        found.append(serving(teacher, place.teacher_tp, context, "teacher", chip, share))
    return found


def too_large(cfg: DictConfig, gpus: int) -> list[str]:
    """What does not fit, a line each. Empty if all does."""
    if not gpus:
        needs = cfg.model.requires.gpus
        return [f"{cfg.model.path} needs GPUs; cluster.gpus is 0 or none are here"] if needs else []
    lines = []
    place = placement(cfg, gpus)
    if teacher_shape(cfg) is not None and cfg.teacher.name == "server" and not place.teachers:
        lines.append(f"{gpus} GPU leaves none for the teacher {cfg.teacher.model}")
    for use in uses(cfg, gpus):
        if use.short:
            largest = max(use.parts, key=lambda part: use.parts[part])
            lines.append(
                f"{use.what}: {use.total / GIB:.1f} GiB on each GPU, {use.room / GIB:.1f} can be "
                f"used, {use.short / GIB:.1f} short; most are {largest} "
                f"({use.parts[largest] / GIB:.1f})"
            )
    return lines


def nearest(cfg: DictConfig, gpus: int) -> list[str] | None:
    """The overrides that change least and fit: memory for time first, then more GPUs, then what
    changes the result (adapters, shorter trees). None if nothing here does."""
    for change in _changes(gpus):
        trial = changed(cfg, change)
        if not too_large(trial, trial.cluster.gpus):
            return change
    return None


def _changes(gpus: int) -> Iterator[list[str]]:
    saving = ["training.checkpointing=true"]
    more = [n for n in (1, 2, 4, 8, 16, 32, 64) if n > gpus]
    if gpus:
        yield saving
    for n in more:
        yield [f"cluster.gpus={n}"]
        yield [f"cluster.gpus={n}", *saving]
    adapters = ["training.lora_rank=16", *saving]
    yield adapters
    for tokens in (65536, 32768, 16384, 8192):
        yield [*saving, f"training.max_tree_tokens={tokens}"]
        yield [*adapters, f"training.max_tree_tokens={tokens}"]


def changed(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    trial = cfg.copy()
    OmegaConf.set_struct(trial, False)
    return OmegaConf.merge(trial, OmegaConf.from_dotlist(overrides))  # type: ignore[return-value]


def check(cfg: DictConfig, gpus: int) -> None:
    """SetupError with what is missing and the nearest setting that fits."""
    found = too_large(cfg, gpus)
    if not found:
        return
    lines = "\n".join(f"  - {one}" for one in found)
    change = nearest(cfg, gpus)
    advice = f"The nearest that fits: {' '.join(change)}" if change else "Nothing tried here fits."
    raise SetupError(
        f"model={cfg.model.name} on {gpus} x {cfg.cluster.gpu} does not fit:\n{lines}\n{advice}"
    )
