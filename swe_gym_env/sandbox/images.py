"""The local image store: what `local` and `process` sandboxes start from, without a registry.

An image is a folder ``<home>/images/<name>/`` with an ``image.json``. Its ``tree`` becomes the
working folder of the sandbox (read-only below, changes on top); ``mounts`` are host folders seen
read-only in the sandbox (a virtual environment, say); ``masks`` are paths that look empty in the
sandbox (so that an installed copy of a package cannot give the answer away).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from swe_gym_env.errors import SetupError


def home() -> Path:
    """What can be made again is cached here: ``$SWE_GYM_HOME`` or ~/.cache/swe_gym_env."""
    return Path(os.environ.get("SWE_GYM_HOME") or Path.home() / ".cache" / "swe_gym_env").absolute()


@dataclass(frozen=True)
class Image:
    """``tree`` is relative to the image's folder; the mounts' host paths may use ``{home}``."""

    tree: str = "tree"
    mounts: Mapping[str, str] = field(
        default_factory=dict
    )  # path in the sandbox -> path on the host
    masks: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def tree_path(self) -> Path:
        return self.folder / self.tree

    def host_mounts(self) -> dict[str, Path]:
        return {sandbox: Path(host.format(home=home())) for sandbox, host in self.mounts.items()}


def path_of(name: str) -> Path:
    return home() / "images" / name


def exists(name: str) -> bool:
    return (path_of(name) / "image.json").is_file()


def save(name: str, image: Image) -> None:
    folder = path_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = {k: v for k, v in asdict(image).items() if k != "folder"}
    aside = folder / f".image.json.{os.getpid()}"
    aside.write_text(json.dumps(data, indent=1))
    aside.replace(folder / "image.json")


def load(name: str) -> Image:
    """Raises SetupError if the store has no such image."""
    folder = path_of(name)
    try:
        data = json.loads((folder / "image.json").read_text())
    except FileNotFoundError:
        raise SetupError(
            f"no image {name!r} under {folder.parent}: build the tasks first "
            "(python -m swe_gym_env.tasks.pypi build), or point SWE_GYM_HOME at the store"
        ) from None
    return Image(folder=folder, **{**data, "masks": tuple(data["masks"])})
