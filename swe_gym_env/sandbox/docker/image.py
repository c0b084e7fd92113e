"""Docker images made from images of the local store, so that both kinds of sandbox run all tasks.

An image has three layers: a base with this host's release of Debian or Ubuntu (so that its Python
is the one with which the environment was made), an environment shared by many tasks, and the tree
of the task.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.local import python_prefixes

REPOSITORY = "swe-gym-env"
PACKAGES = "python3,python3-venv,git,patch,procps,ca-certificates"
log = logging.getLogger(__name__)
_LOCK = threading.Lock()  # several threads often need the same image at once


def ensure(api: Any, name: str, workdir: str = "/testbed") -> str:
    """Make the Docker image for the image ``name`` of the store, where it does not exist yet.

    Args:
        api: The SDK's low-level client.
        name: Name of the image in the local store.
        workdir: Folder in the container at which the tree is put.

    Returns:
        The tag of the Docker image.

    Raises:
        SetupError: The image of the store is incomplete, or the base image cannot be made.
        docker.errors.DockerException: The engine failed.
    """
    image = images.load(name)
    if not image.tree_path.is_dir():
        raise SetupError(f"image {name!r} lacks {image.tree_path}: build it again")
    layers = _layers(image, name, workdir)
    top = layers[-1][0]
    if not _exists(api, top):  # a single request in the usual case, since every start makes it
        with _LOCK:
            below = base(api)
            for tag, folders in layers:
                if not _exists(api, tag):
                    log.info("making the image %s", tag)
                    last = tag == top
                    _layer(api, below, tag, folders, image.env if last else {}, workdir)
                below = tag
    return top


# (folder on the host, folder in the image, whether installed packages are left out)
Folders = list[tuple[str, str, bool]]


def _layers(image: images.Image, name: str, workdir: str) -> list[tuple[str, Folders]]:
    """Tags, and what each adds to the one before.

    First come interpreters from outside of the base, which environments share, then the mounts,
    then the tree. Each tag holds a digest of all below it, so a change makes new images.
    """
    mounts = {
        sandbox: Path(os.path.realpath(host)) for sandbox, host in image.host_mounts().items()
    }
    below, layers = _base_tag()[0], list[tuple[str, Folders]]()
    for prefix in python_prefixes(tuple(map(str, mounts.values()))):
        below = f"{REPOSITORY}/python:{_digest(below, prefix)}"
        layers.append((below, [(prefix, prefix, True)]))
    if mounts:
        stamps = [
            f"{sandbox}={host}:{host.stat().st_mtime_ns}"
            for sandbox, host in sorted(mounts.items())
        ]
        below = f"{REPOSITORY}/env:{_digest(below, *stamps)}"
        layers.append((below, [(str(host), sandbox, False) for sandbox, host in mounts.items()]))
    tag = f"{REPOSITORY}/{name.lower()}:{_digest(below, workdir, _stamp(image))}"
    return [*layers, (tag, [(str(image.tree_path), workdir, False)])]


def base(api: Any) -> str:
    """The tag of a small system with Python and git, which is made if it does not exist.

    Root with mmdebstrap installed makes it without a registry; else the engine builds it from the
    image of the distribution. Raises SetupError if that fails.
    """
    tag, system = _base_tag()
    codename = tag.rpartition(":")[2]
    if _exists(api, tag):
        return tag
    log.info("making the base image %s", tag)
    if shutil.which("mmdebstrap") and os.geteuid() == 0:
        with tempfile.TemporaryDirectory() as folder:
            target = f"{folder}/base.tar"
            command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
            done = subprocess.run([*command, codename, target], capture_output=True, text=True)
            if done.returncode:
                raise SetupError(f"mmdebstrap failed: {done.stderr.strip()[-300:]}")
            api.import_image_from_file(target, *tag.split(":"))
        return tag
    words = PACKAGES.replace(",", " ")
    recipe = f"FROM {system}:{codename}\nRUN apt-get update && apt-get install -y {words}\n"
    for line in api.build(fileobj=io.BytesIO(recipe.encode()), tag=tag, rm=True, decode=True):
        if "error" in line:
            raise SetupError(
                f"cannot build the base image: {line['error'].strip()}. Without a registry, run "
                "once as root with the package mmdebstrap installed."
            )
    return tag


def _base_tag() -> tuple[str, str]:
    """The tag of the base image, and the name of the distribution."""
    try:
        release = platform.freedesktop_os_release()
        system, codename = release["ID"], release["VERSION_CODENAME"]
    except (OSError, KeyError):
        system, codename = "debian", "bookworm"
    return f"{REPOSITORY}/base:{codename}", system


def _layer(
    api: Any,
    below: str,
    tag: str,
    folders: Folders,
    env: Mapping[str, str],
    workdir: str,
) -> None:
    container = api.create_container(below, command=["true"], labels={"swe_gym_env": "build"})
    try:
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for here, there, bare in folders:
                    archive.add(here, there.lstrip("/"), filter=_bare if bare else _owned_by_root)
            file.seek(0)
            api.put_archive(container["Id"], "/", file)
        changes = [f'ENV {key}="{value}"' for key, value in env.items()]
        changes.append(f"WORKDIR {workdir}")
        label = "LABEL swe_gym_env=image"
        name, _, version = tag.rpartition(":")
        api.commit(container["Id"], name, version, changes="\n".join([*changes, label]))
    finally:
        api.remove_container(container["Id"], force=True)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _bare(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out packages that are installed beside an interpreter: they may hold the answer."""
    inside = entry.name.partition("/site-packages/")[1]
    return None if inside else _owned_by_root(entry)


def _stamp(image: images.Image) -> str:
    """A text that changes when the image of the store is made anew."""
    return "".join(
        str(p.stat().st_mtime_ns) for p in (image.folder / "image.json", image.tree_path)
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _exists(api: Any, tag: str) -> bool:
    return bool(api.images(tag, quiet=True))
