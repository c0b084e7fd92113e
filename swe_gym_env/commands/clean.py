"""Remove what sandboxes left behind: containers, temporary folders of sandbox=process, images.

Sandboxes clean up after themselves. This command is for those that were killed together with the
processes that watched them. It removes only what belongs to no running process, unless --all is
given. --images also removes Docker images that were made from tasks of the local store; they are
made again when they are needed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.commands.prepull import engine
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.process import PREFIX

BUILD = 3600.0  # seconds; making an image does not take longer


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also what a living process uses")
    parser.add_argument("--images", action="store_true", help="also the images made of tasks")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def run(options: argparse.Namespace) -> int:
    verb = "would remove" if options.dry_run else "removed"
    count = 0
    for folder in folders(options.all):
        if not options.dry_run:
            shutil.rmtree(folder, ignore_errors=True)
        if options.dry_run or not folder.exists():
            print(f"{verb} folder {folder}")
            count += 1
        else:
            print(f"cannot remove folder {folder}: it belongs to another user")
    try:
        api = engine()
    except SetupError as error:
        print(f"containers are not looked at: {error}")
    else:
        count += _containers(api, options, verb)
        if options.images:
            _images(api, options, verb)
    print(f"{verb} {count} sandboxes")
    return 0


def folders(everything: bool) -> list[Path]:
    """Temporary folders of sandbox=process, or only those whose process has ended."""
    found = sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    return [path for path in found if everything or not _owned(path)]


def _owned(folder: Path) -> bool:
    """Whether the process that made the folder runs, and is not a later one with the same id."""
    match = re.match(rf"{re.escape(PREFIX)}(\d+)-", folder.name)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        ticks = int(Path("/proc", match[1], "stat").read_text().rpartition(")")[2].split()[19])
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:  # no /proc here: keep the folder, since a run may use it
        return True
    started = int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else 0
    return started <= folder.stat().st_ctime + 2  # seconds: the boot time is rounded


def _abandoned(found: Mapping[str, Any]) -> bool:
    from swe_gym_env.sandbox.docker.leftovers import LABEL, abandoned

    if f"{LABEL}.owner" in found["Labels"]:
        return abandoned(found["Labels"])
    return time.time() - found["Created"] > BUILD  # of an image that is being made


def _containers(api: Any, options: argparse.Namespace, verb: str) -> int:
    import docker

    from swe_gym_env.sandbox.docker.leftovers import LABEL

    count = 0
    for found in api.containers(all=True, filters={"label": LABEL}):
        name = found["Names"][0].lstrip("/") if found["Names"] else found["Id"][:12]
        if not (options.all or _abandoned(found)):
            continue
        try:
            if not options.dry_run:
                api.remove_container(found["Id"], force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # removed already, or being removed
                print(f"cannot remove container {name}: {error.explanation}")
                continue
        print(f"{verb} container {name} ({found['Image']})")
        count += 1
    return count


def _images(api: Any, options: argparse.Namespace, verb: str) -> None:
    import docker

    from swe_gym_env.sandbox.docker.image import REPOSITORY

    for found in api.images(f"{REPOSITORY}/*"):  # the newest come first, so upper layers do
        for tag in found["RepoTags"]:
            try:
                if not options.dry_run:
                    api.remove_image(tag)
            except docker.errors.APIError as error:
                print(f"cannot remove image {tag}: {error.explanation}")
                continue
            print(f"{verb} image {tag}")
