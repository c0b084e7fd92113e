"""Fetch the Docker images of tasks before a run, slowly enough for the registry.

Images that the engine has already are skipped, so a killed command continues where it was. If the
registry limits the rate, the command waits, longer each time. --max-disk is the space that the
layers of all images of the engine may take together. Images that do not fit are reported, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from swe_gym_env.commands import selection
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.text import shown

WAITS = (30, 60, 120, 240, 480, 900, 900, 900)  # seconds, after a rate limit or a server error
LATER = re.compile(
    r"toomanyrequests|too many requests|rate.?limit|\b429\b|\b50[234]\b|timed? ?out", re.I
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add(parser: argparse.ArgumentParser) -> None:
    selection.add_tasks(parser)
    parser.add_argument(
        "--max-disk", type=size, metavar="SIZE", help="200GB, say; default: no limit"
    )


def run(options: argparse.Namespace) -> int:
    wanted = list(dict.fromkeys(task.image for task in selection.load(options)))
    ours = [name for name in wanted if (images.path_of(name) / "image.json").is_file()]
    if ours:
        print(f"{len(ours)} images are in the local store and need no engine")
    left = [name for name in wanted if name not in ours]
    return pull(engine(), left, options.max_disk) if left else 0


def engine() -> Any:
    """The SDK's low-level client of the engine that sandboxes would use. Raises SetupError."""
    from swe_gym_env.sandbox.docker import DockerProvider

    provider = DockerProvider()
    if missing := provider.unavailable():
        raise SetupError(missing)
    return provider.api


def pull(
    api: Any,
    names: Iterable[str],
    budget: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Fetch the images. Returns the exit code: 0 if the engine has all of them now."""
    names = list(names)
    missing = [name for name in names if not _there(api, name)]
    say(f"{len(names)} images, {len(names) - len(missing)} of them are there")
    failed = []
    for number, name in enumerate(missing):
        used = api.df()["LayersSize"] if budget is not None else 0
        if budget is not None and used >= budget:
            say(
                f"stopped: the engine's layers take {used / 1e9:.1f} GB of {budget / 1e9:.1f} GB. "
                f"{len(missing) - number} of {len(names)} images are left, from {name} on"
            )
            return 1
        started = time.monotonic()
        fault = _patiently(api, name, sleep)
        if fault:
            failed.append(name)
        what = f"cannot be pulled: {fault}" if fault else f"{time.monotonic() - started:.0f} s"
        say(f"{number + 1}/{len(missing)} {name}  {what}")
    if failed:
        say(f"{len(failed)} of {len(names)} images could not be pulled; the first: {failed[0]}")
    return 1 if failed else 0


def _patiently(api: Any, name: str, sleep: Callable[[float], None]) -> str:
    """Pull an image, with retries. Returns why it failed; empty if it did not."""
    for wait in (*WAITS, None):
        fault = _pull(api, name)
        if not fault or not LATER.search(fault) or wait is None:
            return fault
        say(f"{name}: {fault}; again in {wait} s")
        sleep(wait)
    return ""


def _pull(api: Any, name: str) -> str:
    """Pull an image once. Errors are exceptions at first, and part of the stream once it began."""
    import docker

    repository, tag = docker.utils.parse_repository_tag(name)
    try:
        for event in api.pull(repository, tag or "latest", stream=True, decode=True):
            if "error" in event:
                return str(event["error"]).strip()
    except (docker.errors.DockerException, OSError) as error:
        return str(getattr(error, "explanation", None) or error).strip()
    return ""


def _there(api: Any, name: str) -> bool:
    import docker

    try:
        api.inspect_image(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def say(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)


def size(text: str) -> int:
    match = re.fullmatch(r"([\d.]+) *([KMGT]?)i?B?", text, re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 200GB is wanted")
    return int(float(match[1]) * UNITS[match[2].upper()])
