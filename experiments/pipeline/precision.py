"""``model.dtype=auto`` and ``workers.threads=auto``: decided once for a run, and kept in it.

The decision stands in the section ``decided`` of the run folder's config.yaml, so that whatever
reads a stored run (training in another process, annotation, analysis) computes as the run did. The
precision changes results in their last digits: it stays when the run goes on, also on a machine
that would choose differently. The number of threads is measured again on another machine.

A run's name says what was asked for (``auto``), so that two machines find the same folder. The name
of iteration 0, which runs share, says what was decided (``experiments/runs/folders.py``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from experiments.runs.layout import is_configured
from experiments.runs.reader import load_config
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from experiments.pipeline.build import RunContext

log = logging.getLogger(__name__)

AUTO = "auto"
DTYPES = ("bfloat16", "float32")


def check(cfg: DictConfig) -> None:
    """SetupError where a precision or a number of threads is none. Loads no torch."""
    known = " or ".join(DTYPES)
    dtype, teacher = cfg.model.dtype, cfg.teacher.get("dtype")
    if dtype not in (AUTO, *DTYPES):
        raise SetupError(
            f"model.dtype={_shown(dtype)}: it is {AUTO} (whichever is faster here), {known}"
        )
    if teacher not in (None, *DTYPES):
        raise SetupError(f"teacher.dtype={teacher}: it is {known}, or null for the student's")
    threads = cfg.workers.threads
    if threads not in (None, AUTO) and (type(threads) is not int or threads < 1):
        raise SetupError(
            f"workers.threads={threads}: it is {AUTO} (one or all, whichever is faster here), a "
            "whole number, 1 or more, or null for all"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


@dataclass(frozen=True)
class Kept:
    """What a run decided. ``threads`` is None where that was not decided, ``machine`` empty where
    it is not known. ``by`` names the folder."""

    dtype: str
    threads: int | None
    machine: str
    by: str

    @classmethod
    def of(cls, folder: Path) -> Kept | None:
        """None where no run has begun in ``folder``. One of an older version has no ``decided``:
        it had a precision."""
        cfg = _stored(folder)
        if cfg is None:
            return None
        if "decided" in cfg:
            return cls(**cfg.decided, by=folder.name) if cfg.decided else None
        dtype = OmegaConf.select(cfg, "model.dtype")
        return cls(dtype, None, "", folder.name) if dtype in DTYPES else None


def of_sweep(runs: Iterable[Path], cfg: DictConfig) -> Kept | None:
    """Of the first of ``runs`` that has begun, which asked as ``cfg`` does for the same model: what
    a sweep compares is computed alike."""
    for folder in runs:
        stored = _stored(folder)
        if stored is None or OmegaConf.select(stored, "model.path") != cfg.model.path:
            continue
        if ("decided" not in stored or stored.model.dtype == AUTO) and (kept := Kept.of(folder)):
            return kept
    return None


def of_checkpoint(model: str) -> Kept | None:
    """Of the run whose checkpoint is in the folder ``model``, so that measuring it once more gives
    what the run measured."""
    above = Path(model).resolve().parents  # RUN/rounds/round_001/checkpoint
    return Kept.of(above[2]) if len(above) > 2 else None


def _stored(folder: Path) -> DictConfig | None:
    return load_config(folder) if is_configured(folder) else None


def settle(context: RunContext, folder: Path | None = None, like: Kept | None = None) -> None:
    """Puts the decision into ``parts.cfg.decided``, and says it in one line. Nothing is done where
    it stands there already and holds on this machine.

    The run in ``folder`` keeps what it began with, a new one takes the precision of ``like``. Only
    what is not known then is measured.
    """
    from algorithms.engine import precision

    cfg, here = context.cfg, precision.machine()
    check(cfg)
    there = cfg.get("decided")
    before = Kept(**there, by="") if there else Kept.of(folder) if folder else None
    asked, known = cfg.model.dtype, before or like
    dtype = None if asked == AUTO else asked
    if known and (before or asked == AUTO):
        dtype = known.dtype
    threads = before.threads if before and before.machine == here else None
    missing = cfg.workers.threads == AUTO and threads is None and not _many()
    why = ""
    if dtype is None or missing:
        choice = precision.choose(
            context.start, dtype, None if missing else threads or precision.ALL_THREADS
        )
        dtype, threads, why = choice.dtype, choice.threads if missing else threads, choice.why
    elif there:
        return
    with read_write(cfg), open_dict(cfg):
        cfg.decided = {"dtype": dtype, "threads": threads, "machine": here}
    _say(cfg, why, known, went_on=before is not None)


def threads(cfg: DictConfig) -> int:
    """As many as ``workers.threads`` and the settled ``cfg.decided`` say."""
    from algorithms.engine.precision import ALL_THREADS

    asked = cfg.workers.threads
    if asked == AUTO:
        return ALL_THREADS if _many() else cfg.decided.threads or ALL_THREADS
    return int(asked or ALL_THREADS)


def _many() -> bool:
    """Several processes train, among which their launcher has shared out the processor."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _say(cfg: DictConfig, why: str, known: Kept | None, went_on: bool) -> None:
    messages = []
    if cfg.model.dtype == AUTO:
        here = known is not None and known.machine in ("", cfg.decided.machine)
        on = "" if here or known is None else f" on another machine ({known.machine})"
        whose = "this run" if went_on else known.by if known else ""
        as_before = f", with which {whose} began{on}" if known else ""
        verb = "stays" if went_on else "is"
        messages.append(f"model.dtype=auto {verb} {cfg.decided.dtype}{as_before}")
    if cfg.workers.threads == AUTO:
        messages.append(f"workers.threads=auto is {threads(cfg)}")
    if messages and (why or known):
        log.info("%s%s", ", ".join(messages), f" ({why})" if why else "")
