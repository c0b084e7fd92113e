"""FSDP2: weights, gradients and optimizer state are split over all processes.

torch's ``fully_shard`` is used directly, because accelerate's plug-in for it

- averages gradients over the processes, which is right only if all have equal shares. Our losses
  are sums over one global denominator (``losses.denominator``), so gradients must be *summed*;
- gathers weights when the model's own ``forward`` is called. Our pass calls body and output layer
  separately (``forward.tree_pass``), so that logits are computed in chunks.

Precision: trained weights are stored in float32 and are their own master weights; a layer is
gathered in the model's precision just before it computes. Frozen weights keep their precision.

Every process must run the same number of passes, since each pass gathers weights from all of them;
``parallel.local_rows`` sees to that.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import distributed

from algorithms.engine import parallel
from algorithms.engine.adapters import saves_adapter_only
from algorithms.engine.forward import TREE_PASS, tree_pass


def shard(model: Any, device: torch.device) -> Any:
    """Shard ``model`` in place, one layer at a time, so that ``device`` never holds all of it.

    Returns:
        The same model without weights (on the meta device), for :func:`gather_model`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
    from transformers.modeling_layers import GradientCheckpointingLayer

    empty = _without_weights(model)
    body = getattr(model, "get_base_model", lambda: model)()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    layers = [part for part in body.modules() if isinstance(part, GradientCheckpointingLayer)]
    # Inner modules first. Whatever is in no layer (embeddings, output layer) is sharded with body.
    for part in [*layers, body]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=_precision(part))
    for part in body.modules():
        if isinstance(part, FSDPModule):
            # The default divides by the number of processes. A divide factor of 1 together with a
            # plain sum gives the sum of the gradients on every back end, gloo included.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    # FSDP gathers weights around registered methods only, so our pass becomes one.
    setattr(body, TREE_PASS, partial(tree_pass, body))
    register_fsdp_forward_method(body, TREE_PASS)
    return empty


def _precision(part: torch.nn.Module) -> Any:
    """Convert trained weights to float32 and let them compute in the precision they had."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    low = {p.dtype for p in part.parameters() if p.requires_grad} - {torch.float32}
    for parameter in part.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return MixedPrecisionPolicy(
        param_dtype=low.pop() if low else None,
        reduce_dtype=torch.float32,  # gradients are summed over the processes in float32
        cast_forward_inputs=False,  # position ids and masks must stay as they are
    )


def _without_weights(model: Any) -> Any:
    """A copy whose parameters are on the meta device; deepcopy takes them from its memo."""
    memo: dict[int, Any] = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


@torch.no_grad()
def gather_model(model: Any, empty: Any) -> Any:
    """Put the sharded ``model`` together on the CPU of the main process. All processes must call.

    Weights are gathered one at a time, in the precision in which they are saved, so no process but
    the first ever holds more than one whole weight. If only the adapter is saved, only the adapter
    is gathered.

    Args:
        model: The sharded model.
        empty: What :func:`shard` returned for it.

    Returns:
        A copy of ``empty`` with the weights in the main process, None in the others.
    """
    main, state, adapter_only = parallel.is_main(), {}, saves_adapter_only(empty)
    dtypes = {name: parameter.dtype for name, parameter in empty.named_parameters()}
    for name, parameter in model.named_parameters():
        if adapter_only and not parameter.requires_grad:
            continue
        gathered = parameter.detach().to(dtypes[name]).full_tensor()
        if main:
            state[name] = gathered.cpu()
    if not main:
        return None
    filled = copy.deepcopy(empty)
    filled.load_state_dict(state, strict=False, assign=True)
    # named_parameters lists a tied weight once, so the tie is restored afterwards.
    getattr(filled, "get_base_model", lambda: filled)().tie_weights()
    return filled
