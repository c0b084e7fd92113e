"""One pass of a model over a packed row: the only place where trees meet transformers.

A tree is right only if tokens exchange information in attention and nowhere else. A recurrent layer
would carry one branch into the next, and a model that does more in its attention or to its logits
than this code reproduces would be trained on something else. Both are refused:
:func:`check_model` looks at a model before it is used, and after every pass the windows that its
attention layers used are compared with its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from algorithms.engine.adapters import unwrap_adapter
from algorithms.engine.attention import FLEX_BLOCK, TreeMask
from algorithms.engine.head import check_head, compute_logits
from algorithms.engine.losses import Predicted, predict
from algorithms.engine.supported import check_config, layer_windows
from algorithms.engine.tree import PackedTrees, TokenTree, pack
from swe_gym_env.errors import SetupError

TREE_PASS = "tree_pass"  # the attribute under which sharding.py registers the pass with FSDP


def check_model(model: Any) -> None:
    """Check that sampler, scorer and trainer give equal log-probs for ``model``.

    All three call this one check when they are given a model.

    Raises:
        SetupError: The model is of an unknown type, is recurrent, changes its logits, or its
            attention layers do not do what its configuration says.
    """
    model = unwrap_adapter(model)
    config, name = model.config.get_text_config(), type(model).__name__
    check_config(config.to_dict(), name)
    if model._is_stateful:
        raise SetupError(f"{name} has recurrent states, which a token tree would mix up.")
    check_head(model)
    windows_used: list[int | None] = []
    with _attention(model, "probe"), torch.no_grad():
        model.base_model(
            input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device),
            attention_mask=None,
            use_cache=False,
            windows_used=windows_used,
        )
    _check_windows(model, windows_used)


@contextmanager
def _attention(model: Any, implementation: str) -> Iterator[None]:
    """Switch the attention implementation for the duration of the block."""
    before = model.config._attn_implementation
    _set_attention(model, implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _set_attention(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        raise SetupError(
            f"{type(model).__name__} does not let its attention be replaced, which token trees "
            "need. Use a model that supports the attention interface of transformers."
        )


def _check_windows(model: Any, windows_used: list[int | None]) -> None:
    """Compare the windows that the layers used, in order, with the configuration."""
    expected = layer_windows(model.config.get_text_config())
    if windows_used != expected:
        raise SetupError(
            f"{type(model).__name__}: {len(windows_used)} of {len(expected)} layers called the "
            f"attention function, {sum(w is not None for w in windows_used)} of them with a "
            f"sliding window; by the configuration {sum(w is not None for w in expected)} have "
            "one. The layers differ from the configuration, so the model cannot be trained on "
            "token trees."
        )


def use_trees(model: Any) -> None:
    """Set the model's attention to ``packed_tree``; SetupError if trees would be wrong in it."""
    if model.config._attn_implementation != "packed_tree":
        check_model(model)
        _set_attention(model, "packed_tree")


def forward(
    model: Any, trees: Sequence[TokenTree], num_best: int = 0, temperature: float = 1.0
) -> tuple[Predicted, PackedTrees]:
    """Pack ``trees`` into one row and predict its loss pairs.

    Args:
        model: A model prepared by :func:`use_trees`, with or without an adapter, sharded or not.
        trees: The trees of the row.
        num_best: How many of the model's own most likely tokens to return for each pair.
        temperature: Log-probs are of softmax(logits / temperature).

    Returns:
        The predictions, and the packed row that they belong to.
    """
    body = getattr(model, "get_base_model", lambda: model)()
    multiple = FLEX_BLOCK if body.device.type == "cuda" else 1
    packed = pack(trees, multiple).to(body.device)
    mask = TreeMask(packed)
    run = getattr(body, TREE_PASS, partial(tree_pass, body))
    predicted = run(packed, mask, num_best, temperature)
    _check_windows(body, mask.windows_used)
    return predicted, packed


def tree_pass(
    body: Any, packed: PackedTrees, mask: TreeMask, num_best: int, temperature: float
) -> Predicted:
    """Body and output layer. If weights are sharded, FSDP gathers them around this call."""
    hidden = hidden_states(body, packed, mask)
    head = partial(compute_logits, body, temperature=temperature)
    return predict(head, hidden, packed, num_best)


def hidden_states(body: Any, packed: PackedTrees, mask: TreeMask) -> torch.Tensor:
    """Last hidden states of the packed row, [t, d]."""
    return body.base_model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        use_cache=False,
        tree_mask=mask,
    ).last_hidden_state[0]
