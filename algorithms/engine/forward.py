"""One pass of a model over a packed row: the only place where trees meet transformers.

A tree is right only where tokens meet in attention and nowhere else. A recurrent layer would carry
one branch into the next, and a model that does more to its attention or its logits than asked for
here would be trained on something else. Both are refused, and neither can pass unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from algorithms.engine.attention import FLEX_BLOCK, TreeMask
from algorithms.engine.losses import Predicted, predict
from algorithms.engine.tree import Packed, TrainSample, pack
from swe_gym_env.errors import SetupError

DOOR = "tree_pass"  # the attribute by which a sharded model is entered


def use_trees(model: Any) -> None:
    """Set the model's attention to ``packed_tree``. SetupError if trees would be wrong in it."""
    if model.config._attn_implementation == "packed_tree":
        return
    config, name = model.config.get_text_config(), type(model).__name__
    strange = set(_layer_types(config)) - {"full_attention", "sliding_attention"}
    if strange or model._is_stateful:
        raise SetupError(
            f"{name} has layers that are no plain attention "
            f"({', '.join(sorted(strange)) or 'recurrent states'}): they carry one branch of a "
            "token tree into the next. Train a model whose layers are all attention, full or with "
            "a sliding window (Llama, Qwen3, Mistral and their like)."
        )
    if not _head_gives_logits(model):
        raise SetupError(
            f"{name} changes its logits after the output layer (scaling, soft caps), which the "
            "losses here would leave out. Take a model that does not."
        )
    model.set_attn_implementation("packed_tree")
    if model.config._attn_implementation != "packed_tree":
        raise SetupError(
            f"{name} does not let its attention be replaced, which token trees need. Take a model "
            "that supports the attention interface of transformers."
        )
    two = np.zeros(2, dtype=np.int64)
    with torch.no_grad():  # what only a pass can tell is told now
        forward(model, [TrainSample(two, two - [1, 0], two.astype(np.float32) + 1, two)])


def _layer_types(config: Any) -> list[str]:
    """As the configuration says, or as follows from there being a window or none."""
    plain = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return list(getattr(config, "layer_types", None) or [plain] * config.num_hidden_layers)


@torch.no_grad()
def _head_gives_logits(model: Any) -> bool:
    """Whether what is planted as the output layer's answer comes out as the logits, bit by bit."""
    planted: list[torch.Tensor] = []

    def plant(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        planted.append(torch.linspace(1, 100, output.numel()).to(output).view_as(output))
        return planted[-1]

    hook = model.get_output_embeddings().register_forward_hook(plant)
    try:
        logits = model(torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits
    finally:
        hook.remove()
    return len(planted) == 1 and torch.equal(planted[0].float(), logits.float())


def forward(model: Any, row: Sequence[TrainSample], best: int = 0) -> tuple[Predicted, Packed]:
    """What ``model``, made ready by :func:`use_trees`, predicts for the pairs of the row."""
    body = getattr(model, "get_base_model", lambda: model)()
    multiple = FLEX_BLOCK if body.device.type == "cuda" else 1
    packed = pack(row, multiple).to(body.device)
    mask = TreeMask(packed)
    predicted = getattr(body, DOOR, partial(tree_pass, body))(packed, mask, best)
    told = [window is not None for window in mask.asked]
    kinds = _layer_types(body.config.get_text_config())
    if told != [kind == "sliding_attention" for kind in kinds]:
        raise SetupError(
            f"{type(body).__name__}: {len(told)} of {len(kinds)} layers asked what they may see, "
            f"{sum(told)} of them with a sliding window; by the configuration "
            f"{kinds.count('sliding_attention')} have one. Its layers do something else than that "
            "says, so it cannot be trained on token trees."
        )
    return predicted, packed


def tree_pass(body: Any, packed: Packed, mask: TreeMask, best: int) -> Predicted:
    """Body and head. Where weights are sharded, this is what they are gathered for."""
    hidden = hidden_states(body, packed, mask)
    return predict(body.get_output_embeddings(), hidden, packed, best)


def hidden_states(body: Any, packed: Packed, mask: TreeMask) -> torch.Tensor:
    """(t, d), the last hidden states of the packed row."""
    return body.base_model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        use_cache=False,
        tree_mask=mask,
    ).last_hidden_state[0]
