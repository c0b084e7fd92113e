"""Arguments that several commands share: the choice of tasks and of the kind of sandbox."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import TaskInstance


def add_tasks(parser: argparse.ArgumentParser, flag: bool = False) -> None:
    """Declare the arguments that choose tasks.

    Args:
        parser: The parser of the command.
        flag: Whether the source is given as ``--tasks TASKS`` instead of as a positional argument.
    """
    about = "a task source, or a file, folder or hub id of rows"
    if flag:
        parser.add_argument("--tasks", required=True, metavar="TASKS", help=about)
    else:
        parser.add_argument("tasks", metavar="TASKS", help=about)
    parser.add_argument("--split", metavar="NAME", help="train, heldout, all, ... Default: all")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N tasks only")
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task source, as under tasks.options; may be repeated",
    )


def add_sandboxes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sandbox", default="auto", help="auto, local, docker, process, or of a plug-in"
    )
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="tasks at once")
    parser.add_argument(
        "--timeout", type=seconds, default=900.0, metavar="SECONDS", help="of one run of the tests"
    )


def load(options: argparse.Namespace) -> list[TaskInstance]:
    """Load the chosen tasks. Raises SetupError, also if there are none."""
    from swe_gym_env import tasks

    values = dict(_pair(text) for text in options.option)
    if options.split is not None:
        values["split"] = options.split
    if options.limit is not None:
        values["limit"] = options.limit
    name = options.tasks
    if name not in tasks.names():
        if "/" not in name and "." not in name:
            raise SetupError(
                f"no task source {name!r}: there are {', '.join(tasks.names())}; a file "
                "is given by its path"
            )
        values.setdefault("path", name)
        name = "jsonl"
    found = tasks.load(name, **values)
    if not found:
        raise SetupError(f"{options.tasks} has no such tasks")
    return found


def provider(options: argparse.Namespace) -> SandboxProvider:
    from swe_gym_env import sandbox

    return sandbox.provider(options.sandbox)


def _pair(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise SetupError(f"-o {text}: KEY=VALUE is wanted")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:  # false for nan as well
        raise argparse.ArgumentTypeError("more than 0, and finite")
    return number
