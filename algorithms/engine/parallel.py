"""Data parallelism: every process holds all trees and computes its share of the rows.

Losses are sums over the denominator of the whole optimizer batch, so gradients are summed over the
processes and never averaged. The number of processes then changes the result no more than the
number of micro-batches does. DistributedDataParallel averages, which would need equal shares.

``torchrun --nproc-per-node N`` sets the number of processes. In a single process all functions
here do nothing or return their argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

T = TypeVar("T")


def initialize(cpu: bool) -> None:
    """Join the process group if a launcher started several processes: gloo on the CPU, else NCCL.

    It may be called more than once.
    """
    from accelerate import PartialState

    PartialState(cpu=cpu)


def shut_down() -> None:
    """Leave the process group. Without it some back ends warn at exit, or hang."""
    if is_distributed():
        distributed.destroy_process_group()


def is_distributed() -> bool:
    """Whether a process group has been joined."""
    return distributed.is_available() and distributed.is_initialized()


def is_main() -> bool:
    """Whether this process saves checkpoints and reports progress (rank 0)."""
    return not is_distributed() or distributed.get_rank() == 0


def local_rows(rows: Sequence[T], filler: T) -> Sequence[T]:
    """The rows that this process computes: every N-th of them.

    Rows are sorted by length, so taking every N-th gives all processes about the same work. All
    get the same number of rows, because each pass gathers sharded weights from all processes at
    once; missing ones are replaced by ``filler``, which must contribute 0 to every sum.
    """
    if not is_distributed():
        return rows
    count = distributed.get_world_size()
    filled = [*rows, *[filler] * (-len(rows) % count)]
    return filled[distributed.get_rank() :: count]


def sum_over_processes(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes, bit for bit the same in each.

    Sharded tensors are skipped: FSDP has summed them when it scattered them.
    """
    if is_distributed():
        for tensor in tensors:
            if not isinstance(tensor, DTensor):
                distributed.all_reduce(tensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor with the whole value, the same in all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def merge_dicts(local: dict[Any, T]) -> dict[Any, T]:
    """The entries of all processes in one dictionary."""
    if not is_distributed():
        return local
    parts: list[dict[Any, T]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(parts, local)
    return {key: value for part in parts for key, value in part.items()}


def barrier() -> None:
    """Wait until all processes have arrived here."""
    if is_distributed():
        distributed.barrier()
