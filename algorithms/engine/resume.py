"""How far a training has come, kept on disk so that a killed one need not begin again.

Written by ``torch.distributed.checkpoint``: each process writes its pieces, and any number of
processes, sharded or not, reads them. On several machines the folder must be one that all see.
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


def digest(batches: Sequence[Sequence[TokenTree]], how: str) -> str:
    """Of what decides how a training ends: the trees of each step, in order, and ``how``."""
    made = hashlib.sha256(how.encode())
    for sample in (sample for batch in batches for sample in batch):
        for array in (sample.token_ids, sample.parent, *(getattr(sample, s) for s in STREAMS)):
            made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()


def save(folder: Path, optimizer: MasterAdamW, told: dict[str, Any]) -> None:
    """Masters, moments and ``told``, what else is to be known: there whole or not at all."""
    from torch.distributed import checkpoint

    aside = folder.with_name(f".{folder.name}.tmp")
    if parallel.is_first():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    parallel.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process alone is meant
        checkpoint.save(optimizer.tensors(), checkpoint_id=aside, no_dist=not parallel.many())
    if parallel.is_first():
        (aside / "told.json").write_text(json.dumps(told))
        publish(aside, folder)
    parallel.wait()


def load(folder: Path, optimizer: MasterAdamW, digest: str) -> dict[str, Any] | None:
    """What was told with it; None where nothing lies there, or it is of another training than the
    one with this ``digest``."""
    from torch.distributed import checkpoint

    try:
        told = json.loads((folder / "told.json").read_text())
    except FileNotFoundError:
        return None
    if told["digest"] != digest:
        log.warning("%s is of another training: this one begins anew", folder)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        checkpoint.load(optimizer.tensors(), checkpoint_id=folder, no_dist=not parallel.many())
    optimizer.restore(told["steps"])
    log.info("training goes on after step %d", told["steps"])
    return told


def forget(folder: Path) -> None:
    """The training has ended; what a kill left half written goes too."""
    shutil.rmtree(folder, ignore_errors=True)
    for rest in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(rest, ignore_errors=True)
