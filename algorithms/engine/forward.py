"""One pass of a model over a packed row: the only place where trees meet transformers.

A tree is right only where tokens meet in attention and nowhere else. A recurrent layer would carry
one branch into the next, and a model that does more to its attention or its logits than asked for
here would be trained on something else. Both are refused, and neither can pass unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from algorithms.engine.adapters import plain
from algorithms.engine.attention import FLEX_BLOCK, TreeMask
from algorithms.engine.head import check_head, logits_of
from algorithms.engine.losses import Predicted, predict
from algorithms.engine.supported import check_config, layer_windows
from algorithms.engine.tree import Packed, TokenTree, pack
from swe_gym_env.errors import SetupError

DOOR = "tree_pass"  # the attribute by which a sharded model is entered


def check_model(model: Any) -> None:
    """SetupError unless the sampler, the scorer and the trainer give equal log-probs of ``model``:
    one check for all of them, asked when any of them takes it."""
    model = plain(model)
    config, name = model.config.get_text_config(), type(model).__name__
    check_config(config.to_dict(), name)
    if model._is_stateful:
        raise SetupError(f"{name} has recurrent states, which a token tree would mix up.")
    check_head(model)
    asked: list[int | None] = []
    with _attention(model, "probe"), torch.no_grad():
        model.base_model(
            input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device),
            attention_mask=None,
            use_cache=False,
            asked=asked,
        )
    _check_windows(model, asked)


@contextmanager
def _attention(model: Any, kind: str) -> Iterator[None]:
    before = model.config._attn_implementation
    _set_attention(model, kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _set_attention(model: Any, kind: str) -> None:
    model.set_attn_implementation(kind)
    if model.config._attn_implementation != kind:
        raise SetupError(
            f"{type(model).__name__} does not let its attention be replaced, which token trees "
            "need. Take a model that supports the attention interface of transformers."
        )


def _check_windows(model: Any, asked: list[int | None]) -> None:
    """Whether the layers asked to see what the configuration says."""
    expected = layer_windows(model.config.get_text_config())
    if asked != expected:
        raise SetupError(
            f"{type(model).__name__}: {len(asked)} of {len(expected)} layers asked what they may "
            f"see, {sum(w is not None for w in asked)} of them with a sliding window; by the "
            f"configuration {sum(w is not None for w in expected)} have one. Its layers do "
            "something else than that says, so it cannot be trained on token trees."
        )


def use_trees(model: Any) -> None:
    """Set the model's attention to ``packed_tree``. SetupError if trees would be wrong in it."""
    if model.config._attn_implementation != "packed_tree":
        check_model(model)
        _set_attention(model, "packed_tree")


def forward(
    model: Any, row: Sequence[TokenTree], best: int = 0, temperature: float = 1.0
) -> tuple[Predicted, Packed]:
    """What ``model``, made ready by :func:`use_trees`, predicts for the pairs of the row: log-probs
    of its logits divided by ``temperature``."""
    body = getattr(model, "get_base_model", lambda: model)()
    multiple = FLEX_BLOCK if body.device.type == "cuda" else 1
    packed = pack(row, multiple).to(body.device)
    mask = TreeMask(packed)
    predicted = getattr(body, DOOR, partial(tree_pass, body))(packed, mask, best, temperature)
    _check_windows(body, mask.asked)
    return predicted, packed


def tree_pass(
    body: Any, packed: Packed, mask: TreeMask, best: int, temperature: float
) -> Predicted:
    """Body and head. Where weights are sharded, this is what they are gathered for."""
    hidden = hidden_states(body, packed, mask)
    head = partial(logits_of, body, temperature=temperature)
    return predict(head, hidden, packed, best)


def hidden_states(body: Any, packed: Packed, mask: TreeMask) -> torch.Tensor:
    """(t, d), the last hidden states of the packed row."""
    return body.base_model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        use_cache=False,
        tree_mask=mask,
    ).last_hidden_state[0]
