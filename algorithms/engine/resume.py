"""Snapshots of a training run, so that one that was killed continues where it stopped.

A snapshot is a folder: tensors written by ``torch.distributed.checkpoint`` and a file
``trainer_state.json``. Each process writes its own shards, and any number of processes, sharded or
not, can load them. On several machines the folder must be on a shared file system.

A snapshot appears completely or not at all: it is written beside its final place and renamed by the
main process after all processes have finished. A kill at any moment leaves the previous snapshot,
or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.engine import parallel
from algorithms.engine.checkpoint import publish
from algorithms.engine.optimizer import MasterAdamW
from algorithms.engine.tree import STREAMS, TokenTree

log = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
OLD_STATE_FILE = "told.json"  # its name in older snapshots


def digest(batches: Sequence[Sequence[TokenTree]], settings: str) -> str:
    """Identifies a training run by what decides its result.

    Args:
        batches: The trees of each optimizer step, in order.
        settings: Text of all options that change the result.
    """
    sha = hashlib.sha256(settings.encode())
    for tree in (tree for batch in batches for tree in batch):
        for array in (tree.token_ids, tree.parent, *(getattr(tree, name) for name in STREAMS)):
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def save(folder: Path, optimizer: MasterAdamW, state: dict[str, Any]) -> None:
    """Write master weights, Adam moments and ``state`` to ``folder``, atomically.

    Args:
        folder: Place of the snapshot; an older one is replaced.
        optimizer: The optimizer. Model weights are its master weights, rounded.
        state: The other values that are needed, for JSON. It has the keys ``digest`` and ``steps``.
    """
    from torch.distributed import checkpoint

    temporary = folder.with_name(f".{folder.name}.tmp")
    if parallel.is_main():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    parallel.barrier()  # no process writes before the folder is there
    alone = not parallel.is_distributed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns that only one process saves
        checkpoint.save(optimizer.state_tensors(), checkpoint_id=temporary, no_dist=alone)
    if parallel.is_main():
        (temporary / STATE_FILE).write_text(json.dumps(state))
        publish(temporary, folder)
    parallel.barrier()  # no process continues before the snapshot is in place


def load(folder: Path, optimizer: MasterAdamW, digest: str) -> dict[str, Any] | None:
    """Load a snapshot into ``optimizer``.

    Returns:
        The ``state`` that was saved; None if there is no snapshot, or it belongs to a training run
        with another ``digest``.
    """
    from torch.distributed import checkpoint

    state = _read_state(folder)
    if state is None:
        return None
    if state["digest"] != digest:
        log.warning("%s is a snapshot of another training run: training starts anew", folder)
        return None
    alone = not parallel.is_distributed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        checkpoint.load(optimizer.state_tensors(), checkpoint_id=folder, no_dist=alone)
    optimizer.restore(state["steps"])
    log.info("training continues after step %d", state["steps"])
    return state


def _read_state(folder: Path) -> dict[str, Any] | None:
    for name in (STATE_FILE, OLD_STATE_FILE):
        if (folder / name).is_file():
            state: dict[str, Any] = json.loads((folder / name).read_text())
            return state
    return None


def forget(folder: Path) -> None:
    """Delete the snapshot of a finished training run, and what a kill left half written."""
    shutil.rmtree(folder, ignore_errors=True)
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
