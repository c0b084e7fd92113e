"""Rebuild many rows that are known to work, several in parallel; built ones are kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import Any

from swe_gym_env import paths
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.tasks.files import Row
from swe_gym_env.tasks.pypi.fetch import locked
from swe_gym_env.tasks.swebench.rebuild import CannotRebuildError, rebuild

log = logging.getLogger(__name__)


@cache
def validated() -> Mapping[str, Mapping[str, Any]]:
    """The rows that worked each time they were judged, by instance_id.

    Each has ``sdist``, ``python``, ``packages_as_of``, ``f2p``, ``p2p``, the ``seconds`` of a test
    run, and ``repeats``.
    """
    text = resources.files(__package__).joinpath("validated.jsonl").read_text()
    facts = [json.loads(line) for line in text.splitlines()]
    return {one["instance_id"]: one for one in facts}


def known(rows: Iterable[Row]) -> Iterator[Row]:
    """Those of ``rows`` that are in ``validated()``."""
    return (row for row in rows if row["instance_id"] in validated())


def rebuilt(
    rows: Sequence[Row],
    asked: bool,
    workers: int,
    progress: Callable[[int, int, str], None] | None,
) -> list[dict[str, Any]]:
    """Rebuild rows.

    Returns:
        Rows with the columns of swebench 5, in their order. Their images are in the local store.

    Raises:
        SetupError: A row that was requested by name (``asked``) cannot be rebuilt. Others are left
            out with a warning.
    """
    made: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = [pool.submit(_built, row) for row in rows]
        try:
            for done, (row, job) in enumerate(zip(rows, jobs, strict=True), 1):
                try:
                    made.append(job.result())
                except CannotRebuildError as error:
                    if asked:
                        raise
                    log.warning("left out: %s", error)
                if progress is not None:
                    progress(done, len(rows), row["instance_id"])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if rows and not made:
        raise SetupError("no row could be rebuilt; the warnings above say why")
    return made


def _built(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rebuild a row, or take it from the store if it was rebuilt from the same row before."""
    note = paths.home() / "tasks" / "swebench" / "rows" / f"{row['instance_id']}.json"
    known = validated().get(row["instance_id"], {}).get("sdist", "")
    with locked(note.with_suffix(".lock")):
        if note.exists():
            done = json.loads(note.read_text())
            if (images.path_of(done["image"]) / "image.json").is_file():
                return done
        done = rebuild(row, known)
        aside = note.with_suffix(".part")
        aside.write_text(json.dumps(done))
        aside.replace(note)
    return done
