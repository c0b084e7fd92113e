"""One pass of a model over a packed row: the only place where trees meet transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from algorithms.engine import attention as _registers_packed_tree  # noqa: F401
from algorithms.engine.losses import Predicted, predict
from algorithms.engine.tree import Packed, TrainSample, pack


def forward(model: Any, row: Sequence[TrainSample], best: int = 0) -> tuple[Predicted, Packed]:
    """What ``model``, its attention set to ``packed_tree``, predicts for the pairs of the row."""
    body = getattr(model, "get_base_model", lambda: model)()
    packed = pack(row).to(body.device)
    hidden = body.base_model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        use_cache=False,
        tree_spans=packed.spans,
        tree_end=packed.end,
    ).last_hidden_state[0]
    return predict(body.get_output_embeddings(), hidden, packed, best), packed
