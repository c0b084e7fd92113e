"""FSDP2: weights, gradients and the optimizer's state, each in pieces over all processes.

torch's ``fully_shard`` is used as it is. accelerate's plug-in for it averages gradients, which
wants equal shares, and gathers weights where the model's own ``forward`` begins; here losses are
sums, and a pass enters body and head by a door of its own (``forward.py``), so that the head can be
chunked.

Weights that are trained are kept in float32, so they are their own masters; a layer is gathered in
the model's precision just before it computes. Frozen weights keep theirs.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import distributed

from algorithms.engine import parallel
from algorithms.engine.adapters import saved_alone
from algorithms.engine.forward import DOOR, tree_pass


def shard(model: Any, device: torch.device) -> Any:
    """Share ``model`` out, in place, a layer at a time, so that ``device`` never holds it whole.
    Returns the same model without weights, for :func:`whole`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
    from transformers.modeling_layers import GradientCheckpointingLayer

    empty = _without_weights(model)
    body = getattr(model, "get_base_model", lambda: model)()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    layers = [part for part in body.modules() if isinstance(part, GradientCheckpointingLayer)]
    for part in [*layers, body]:  # what is in no layer (embeddings, head) makes the last piece
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=_precision(part))
    for part in body.modules():
        if isinstance(part, FSDPModule):  # gradients are added up, never averaged
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    setattr(body, DOOR, partial(tree_pass, body))
    register_fsdp_forward_method(body, DOOR)
    return empty


def _precision(part: torch.nn.Module) -> Any:
    """Trained weights become float32; they compute in what they had."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    low = {p.dtype for p in part.parameters() if p.requires_grad} - {torch.float32}
    for parameter in part.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return MixedPrecisionPolicy(
        param_dtype=low.pop() if low else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )


def _without_weights(model: Any) -> Any:
    memo: dict[int, Any] = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


@torch.no_grad()
def whole(model: Any, empty: Any) -> Any:
    """The sharded ``model`` put together in a copy of ``empty``, on the CPU of the first process;
    the others get None. All take part: weights are gathered one by one, in the precision that is
    saved, so that none but the first ever holds more than one. Of a model whose adapter is saved
    alone, only that is gathered.
    """
    first, state, alone = parallel.is_first(), {}, saved_alone(empty)
    kinds = {name: parameter.dtype for name, parameter in empty.named_parameters()}
    for name, parameter in model.named_parameters():
        if alone and not parameter.requires_grad:
            continue
        gathered = parameter.detach().to(kinds[name]).full_tensor()
        if first:
            state[name] = gathered.cpu()
    if not first:
        return None
    filled = copy.deepcopy(empty)
    filled.load_state_dict(state, strict=False, assign=True)
    getattr(filled, "get_base_model", lambda: filled)().tie_weights()
    return filled
