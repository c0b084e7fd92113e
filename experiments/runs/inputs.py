"""What a run reads from outside, by its content: the rows of its tasks, the weights of its models.

A setting such as ``tasks.options.path=FILE`` says where the content lies, not what it is. A file
can be edited in place and a checkpoint overwritten, so a run that only remembered paths would go on
with other tasks or another model, or print its first answer again. ``inputs.json`` in a run folder
holds digests, and ``experiments/runs/folders.py`` finds the folder by them.

A digest is of all bytes of the files that matter. Those of large files are kept in the store by
(size, times, inode), so that weights are read once and not at each start. What cannot be looked at
(a hub data set, a server's model, a folder that is gone) has none, and counts as unchanged.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from swe_gym_env.disk import read_json, write_json
from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home
from swe_gym_env.tasks.files import SUFFIXES as OF_TASKS

FILE = "inputs.json"
# Of a model folder: not its README or what a download tool keeps beside the files
OF_MODEL = (
    *(".safetensors", ".bin", ".pt", ".gguf"),  # weights
    *(".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"),  # settings, tokenizer, code
)
LARGE = 1 << 20  # bytes from which a file's digest is kept
SETTLED = 2.0  # seconds after which a further change is sure to show in a file's times

# Settings that name files, from the section on
PLACES = {
    "tasks": ("tasks", "options", "path"),
    "model": ("model", "path"),
    "teacher": ("teacher", "path"),
}

Inputs = Mapping[str, Mapping[str, Any]]  # by name: path and content


def found(depends: Mapping[str, Any], trained: Callable[[], Path]) -> dict[str, dict[str, str]]:
    """What the settings in ``depends`` read, as it is now. ``trained`` finds teacher=trained."""
    read = {}
    for name, keys in PLACES.items():
        path = _value(depends, keys)
        if name == "teacher":
            if not _asks_model(depends):
                continue
            path = path or (str(trained()) if depends["teacher"]["name"] == "trained" else None)
        content = (of_tasks if name == "tasks" else of_model)(path) if path else None
        if content:
            read[name] = {"path": str(Path(path).expanduser().absolute()), "content": content}
    return read


def without_paths(depends: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The settings without the paths of these inputs: equal for a file that was moved, or is named
    in another way."""
    data: dict[str, Any] = copy.deepcopy(dict(depends))
    for name in names:
        *above, last = PLACES[name]
        (_value(data, above) or {}).pop(last, None)
    return data


def _value(data: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _asks_model(depends: Mapping[str, Any]) -> bool:
    """Whether the teacher is a model in this process, and is asked: by a run, or where it is what
    an evaluation measures."""
    measured = _value(depends, ("evaluation", "who")) == "teacher"
    asked = measured or "algorithm" in depends or "iteration0" in depends
    return asked and _value(depends, ("teacher", "name")) in ("hf", "trained")


def of_tasks(path: str) -> str | None:
    """The digest of a file of rows, or of a folder of them; None where there is none."""
    place = Path(path).expanduser()
    if place.is_file():
        return _digest([place], place.parent)
    files = sorted(p for p in place.rglob("*") if p.suffix in OF_TASKS) if place.is_dir() else []
    return _digest(files, place)


def of_model(folder: str | Path) -> str | None:
    """The digest of a Hugging Face folder, with that of the base where it holds an adapter; None
    where there is none. Links are followed, as the hub's cache is made of them."""
    place = Path(folder)
    if not (place / "config.json").is_file():
        return None
    files = sorted(p for p in place.iterdir() if p.suffix in OF_MODEL and p.name[0] != ".")
    content = _digest(files, place)
    base = (read_json(place / "adapter_config.json") or {}).get("base_model_name_or_path")
    below = of_model(base) if base and Path(base).resolve() != place.resolve() else None
    return hashlib.sha256(f"{content} {below}".encode()).hexdigest() if below else content


def changed(before: Inputs, now: Inputs) -> list[str]:
    """One sentence for each input that has another content."""
    changes = []
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if old["content"] != new["content"]:
            where = "" if old["path"] == new["path"] else f" (it was {old['path']})"
            changes.append(f"{name}: {new['path']} has another content{where}")
    return changes


def refuse_changed(run: Path, cfg: DictConfig, *names: str) -> None:
    """SetupError where a stored run read another content under these names, and is to be gone on
    with."""
    stored = (read_json(run / FILE) or {}).get("inputs", {})
    if not stored:  # of an older version, or of what cannot change
        return
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    sections = {name: settings.get(name) for name in names if name in stored}
    if differs := changed(stored, found(sections, Path)):
        raise SetupError(
            f"{run} was made with other files: {'; '.join(differs)}. Put back what it was made "
            "with, or start a new run with what is there now"
        )


def check_student(folder: Path, checkpoint: Path, what: str) -> None:
    """``folder`` holds what the student in ``checkpoint`` did. Remembers which it was, and raises
    SetupError where the checkpoint has been trained anew since."""
    content = of_model(checkpoint)
    if content is None:  # removed when all was done
        return
    now = {"student": {"path": str(checkpoint), "content": content}}
    before = read_json(folder / FILE)
    if before is None:
        write_json(folder / FILE, now)
    elif changed(before, now):
        raise SetupError(
            f"{folder} {what} another checkpoint than the one that lies in {checkpoint} now: it "
            "has been trained again since. Delete that folder, and those of later rounds, to have "
            "them made anew by the checkpoint that is there"
        )


def _digest(files: Iterable[Path], above: Path) -> str | None:
    """Of the contents, under names relative to ``above`` where there are several."""
    found = {str(file.relative_to(above)): _of_file(file) for file in files if file.is_file()}
    if len(found) < 2:
        return next(iter(found.values()), None)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _of_file(path: Path) -> str:
    real = str(path.resolve())
    state = os.stat(real)
    if state.st_size < LARGE:
        return _read(real)
    times = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    kept = home() / "digests.json"
    known = _known(kept)
    if known.get(real, [None])[:-1] == times:
        return str(known[real][-1])
    content = _read(real)
    if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED:
        aside = kept.with_name(f".{kept.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # it only saves time
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({**_known(kept), real: [*times, content]}))
            aside.replace(kept)
    return content


def _known(kept: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
