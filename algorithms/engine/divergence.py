"""Divergence between two models at each token of stored turns, over the whole vocabulary.

Training estimates divergences from one token, or from a teacher's top-k tokens. Here both models
are loaded, so the divergence is computed exactly; the one-token estimate is reported beside it.
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
from algorithms.engine.head import compute_logits
from algorithms.engine.losses import CHUNK
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import PackedTrees, pack
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode


@dataclass(frozen=True)
class TurnDivergence:
    """Divergence at one executed turn: sums over its tokens, in nats, at temperature 1.

    Attributes:
        turn: Index of the turn.
        tokens: Number of its tokens, including the end-of-turn token.
        reverse: KL(student || teacher), exact.
        forward: KL(teacher || student), exact.
        sampled: log p_student - log p_teacher of the executed tokens. It is an unbiased estimate of
            ``reverse`` only if the student itself sampled them at temperature 1.
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
    """One entry for each turn of ``episode``.

    Args:
        student: A model.
        teacher: A model with the student's tokenizer; it reads the same token ids.
        episode: Its executed turns are looked at.
        renderer: The student's renderer.

    Raises:
        SetupError: The vocabularies have different sizes, or token trees would be wrong in a model.
    """
    for model in (student, teacher):
        use_trees(model)
    tree = executed_tree(episode, renderer)
    if tree is None:
        return []
    per_token = [torch.cat(chunks) for chunks in zip(*_chunks(student, teacher, tree), strict=True)]
    segment = torch.from_numpy(tree.segment[tree.loss_nodes])
    turns = []
    for turn in range(len(episode.turns)):
        of_turn = segment == turn
        reverse, forward, sampled = (float(part[of_turn].double().sum()) for part in per_token)
        turns.append(TurnDivergence(turn, int(of_turn.sum()), reverse, forward, sampled))
    return turns


def _chunks(student: Any, teacher: Any, tree: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    """Reverse KL, forward KL and sampled log-ratio of the loss nodes, CHUNK of them at a time."""
    of_student, of_teacher = (_states(model, tree) for model in (student, teacher))
    for low in range(0, len(of_student[0].target), CHUNK):
        p, target = _logprobs(student, *of_student, low)
        q, _ = _logprobs(teacher, *of_teacher, low)
        if p.shape != q.shape:
            raise SetupError(
                f"student and teacher give {p.shape[1]} and {q.shape[1]} logits: a divergence "
                "needs one vocabulary"
            )
        log_ratio = (p - q).gather(1, target[:, None])[:, 0]
        yield *kl_both_ways(p, q), log_ratio


def kl_both_ways(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) and KL(q || p), each [m], of log-probs [m, vocabulary].

    In float32 a sum of tiny terms may be slightly negative; that is rounding and is not hidden.
    """
    return (
        kl_div(q, p, reduction="none", log_target=True).sum(-1),
        kl_div(p, q, reduction="none", log_target=True).sum(-1),
    )


def _states(model: Any, tree: Any) -> tuple[PackedTrees, torch.Tensor]:
    packed = pack([tree], FLEX_BLOCK if model.device.type == "cuda" else 1).to(model.device)
    return packed, hidden_states(model, packed, TreeMask(packed))


def _logprobs(
    model: Any, packed: PackedTrees, hidden: torch.Tensor, low: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs [m, vocabulary] and target tokens [m] of one chunk, on the CPU."""
    part = slice(low, low + CHUNK)
    logits = compute_logits(model, hidden[packed.source[part]])
    return logits.log_softmax(-1).cpu(), packed.target[part].cpu()
