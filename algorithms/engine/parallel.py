"""Data parallelism, plainly: every process holds all trees and computes its share of the rows.

Losses are sums over a denominator of the whole optimizer batch, so gradients are added up, never
averaged, and the number of processes is as free as the number of micro-batches. A wrapper that
averages would need equal shares. ``torchrun --nproc-per-node N`` says how many processes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

T = TypeVar("T")


def join(cpu: bool) -> None:
    """Meet the other processes, if a launcher started any: over gloo on the CPU, else nccl."""
    from accelerate import PartialState

    PartialState(cpu=cpu)


def leave() -> None:
    """The last word between the processes; without it some back ends complain, or hang."""
    if many():
        distributed.destroy_process_group()


def many() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def is_first() -> bool:
    """The process that saves and speaks."""
    return not many() or distributed.get_rank() == 0


def share(rows: Sequence[T], filler: T) -> Sequence[T]:
    """The rows of this process. They come sorted by length, so that turns are fair. All get as many
    (sharded weights are gathered by all at once), if need be with a ``filler`` that counts 0."""
    if not many():
        return rows
    count = distributed.get_world_size()
    filled = [*rows, *[filler] * (-len(rows) % count)]
    return filled[distributed.get_rank() :: count]


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Each becomes, in place, the sum over all processes: bit for bit the same in all of them.
    Sharded ones were added up when they were shared out."""
    if many():
        for tensor in tensors:
            if not isinstance(tensor, DTensor):
                distributed.all_reduce(tensor)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """As an ordinary tensor, the same in all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(mine: dict[Any, T]) -> dict[Any, T]:
    """The entries of all processes."""
    if not many():
        return mine
    parts: list[dict[Any, T]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def wait() -> None:
    """Until all processes have come here."""
    if many():
        distributed.barrier()
