"""The local image store, from which ``local`` and ``process`` sandboxes start without a registry.

An image is a folder ``<home>/images/<name>/`` with an ``image.json``, which holds the fields of
:class:`Image`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home


@dataclass(frozen=True)
class Image:
    """An image of the local store.

    Attributes:
        tree: Folder, relative to ``folder``, whose content becomes the working folder of a sandbox.
            Sandboxes never change it: they write to a layer on top, or to a copy.
        mounts: Host folders that a sandbox sees read-only, such as a virtual environment. Maps a
            path in the sandbox to a path on the host, in which ``{home}`` stands for :func:`home`.
        masks: Paths that are empty in a sandbox, so that an installed copy of a package cannot give
            the answer away.
        env: Environment variables of every command.
        folder: Absolute folder of the image; not stored.
    """

    tree: str = "tree"
    mounts: Mapping[str, str] = field(default_factory=dict)
    masks: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def tree_path(self) -> Path:
        return self.folder / self.tree

    def host_mounts(self) -> dict[str, Path]:
        return {sandbox: Path(host.format(home=home())) for sandbox, host in self.mounts.items()}


def path_of(name: str) -> Path:
    """The folder of the image ``name``, which need not exist."""
    return home() / "images" / name


def exists(name: str) -> bool:
    """Whether the store has an image of this name."""
    return (path_of(name) / "image.json").is_file()


def save(name: str, image: Image) -> None:
    """Write ``image.json`` atomically: readers see the old or the new one, never a part."""
    folder = path_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = {k: v for k, v in asdict(image).items() if k != "folder"}
    aside = folder / f".image.json.{os.getpid()}"
    aside.write_text(json.dumps(data, indent=1))
    aside.replace(folder / "image.json")


def load(name: str) -> Image:
    """Read the image ``name``. Raises SetupError if the store does not have it."""
    folder = path_of(name)
    try:
        data = json.loads((folder / "image.json").read_text())
    except FileNotFoundError:
        raise SetupError(
            f"no image {name!r} under {folder.parent}: build the tasks first "
            "(python -m swe_gym_env.tasks.pypi build), or point SWE_GYM_HOME at the store"
        ) from None
    return Image(folder=folder, **{**data, "masks": tuple(data["masks"])})
