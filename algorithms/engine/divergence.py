"""How far one model is from another at each token of stored turns, over the whole vocabulary.

Training estimates divergences from one token or from a teacher's k best. To measure one, both
models are at hand, so that it is computed exactly; the one-token estimate is kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import kl_div

from algorithms.engine.attention import FLEX_BLOCK, TreeMask
from algorithms.engine.examples import executed_tree
from algorithms.engine.forward import hidden_states, use_trees
from algorithms.engine.head import logits_of
from algorithms.engine.losses import CHUNK
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import Packed, pack
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode


@dataclass(frozen=True)
class TurnDivergence:
    """Sums over the ``tokens`` tokens of one executed turn, end-of-turn included, in nats.

    ``reverse`` is KL(student || teacher) and ``forward`` KL(teacher || student), both exact, at
    temperature 1. ``sampled`` is log p_student - log p_teacher of the token that stands there: an
    unbiased estimate of ``reverse`` only where the student itself sampled it at temperature 1.
    """

    turn: int
    tokens: int
    reverse: float
    forward: float
    sampled: float


@torch.inference_mode()
def divergences(
    student: Any, teacher: Any, episode: Episode, renderer: Renderer
) -> list[TurnDivergence]:
    """One for each turn of ``episode``. The models read the same tokens, which are those that
    ``renderer`` lays out; SetupError where their vocabularies are not of one size."""
    for model in (student, teacher):
        use_trees(model)
    tree = executed_tree(episode, renderer)
    if tree is None:
        return []
    parts = [torch.cat(rows) for rows in zip(*_chunks(student, teacher, tree), strict=True)]
    segment = torch.from_numpy(tree.segment[tree.scored])
    found = []
    for turn in range(len(episode.turns)):
        here = segment == turn
        reverse, forward, sampled = (float(part[here].double().sum()) for part in parts)
        found.append(TurnDivergence(turn, int(here.sum()), reverse, forward, sampled))
    return found


def _chunks(student: Any, teacher: Any, tree: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    """Reverse and forward KL and the sampled log-ratio of the scored tokens, CHUNK at a time."""
    ours, theirs = (_states(model, tree) for model in (student, teacher))
    for low in range(0, len(ours[0].target), CHUNK):
        p, target = _logprobs(student, *ours, low)
        q, _ = _logprobs(teacher, *theirs, low)
        if p.shape != q.shape:
            raise SetupError(
                f"student and teacher give {p.shape[1]} and {q.shape[1]} logits: a divergence "
                "needs one vocabulary"
            )
        ratio = (p - q).gather(1, target[:, None])[:, 0]
        yield *both(p, q), ratio


def both(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) and KL(q || p) of (m, vocabulary) log-probs, each (m,). In float32 a sum of tiny
    terms may come out just below 0; that is rounding, and left alone."""
    return (
        kl_div(q, p, reduction="none", log_target=True).sum(-1),
        kl_div(p, q, reduction="none", log_target=True).sum(-1),
    )


def _states(model: Any, tree: Any) -> tuple[Packed, torch.Tensor]:
    packed = pack([tree], FLEX_BLOCK if model.device.type == "cuda" else 1).to(model.device)
    return packed, hidden_states(model, packed, TreeMask(packed))


def _logprobs(
    model: Any, packed: Packed, hidden: torch.Tensor, low: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, vocabulary) and the tokens that stand there (m,), on the CPU."""
    part = slice(low, low + CHUNK)
    logits = logits_of(model, hidden[packed.source[part]])
    return logits.log_softmax(-1).cpu(), packed.target[part].cpu()
