"""What the episodes of a store were played with, kept beside them in ``rollout.json``.

    {"version": 1,
     "settings": {"policy": "my-model", "max_turns": 10, ...},
     "tasks": {INSTANCE_ID: digest of the task, ...}}

A roll-out that goes on in a store must have the same settings, and the same content of each task;
otherwise its episodes would be mixed with others that only look alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swe_gym_env.disk import read_json, room_for, write_json
from swe_gym_env.errors import SetupError
from swe_gym_env.types import TaskInstance

FILE = "rollout.json"
LOCK = "rollout.lock"
VERSION = 1


def check(folder: Path, settings: Mapping[str, Any], tasks: Sequence[TaskInstance]) -> None:
    """Raises SetupError if ``folder`` holds episodes of other settings or other tasks."""
    stored = read_json(folder / FILE)
    if stored is None:
        if (folder / "episodes.jsonl").exists():
            raise SetupError(
                f"{folder} holds episodes, but no {FILE} with the settings that they were played "
                "with: give another folder as store"
            )
        return
    if stored["version"] != VERSION:
        raise SetupError(
            f"{folder / FILE} has version {stored['version']}, and this is version {VERSION}: give "
            "another folder as store"
        )
    was, now = stored["settings"], _plain(settings)
    differ = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    if differ:
        changes = "; ".join(f"{key}={was.get(key)!r}, not {now.get(key)!r}" for key in differ)
        raise SetupError(
            f"the episodes in {folder} were played with {changes}. Give the same settings to "
            "resume there, or another folder as store"
        )
    digests = stored["tasks"]
    changed = [
        task.instance_id
        for task in tasks
        if digests.get(task.instance_id, digest(task)) != digest(task)
    ]
    if changed:
        raise SetupError(
            f"the episodes in {folder} were played on other tasks with the same names: "
            f"{', '.join(changed[:3])} ({len(changed)} in all). Give another folder as store"
        )


def record(folder: Path, settings: Mapping[str, Any], tasks: Sequence[TaskInstance]) -> None:
    """Write the settings, and add ``tasks`` to those that were recorded before."""
    folder.mkdir(parents=True, exist_ok=True)
    before = (read_json(folder / FILE) or {}).get("tasks", {})
    digests = before | {task.instance_id: digest(task) for task in tasks}
    value = {"version": VERSION, "settings": _plain(settings), "tasks": digests}
    write_json(folder / FILE, value)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While one process writes into ``folder``. Raises SetupError if another one does."""
    with room_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another roll-out is writing into {folder}") from None
        yield


def digest(task: TaskInstance) -> str:
    """Of everything that a task says."""
    values = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    text = json.dumps(values, sort_keys=True, default=_as_json)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _as_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads when it comes back from JSON."""
    return json.loads(json.dumps(settings, default=_as_json))
