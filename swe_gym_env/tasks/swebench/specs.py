"""Facts about each repository of SWE-bench: its Python, its test command, its log parser.

``specs.json`` holds facts from the specifications in swebench 4.1.0, which later releases dropped,
and how to run each repository's tests from a source distribution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from swe_gym_env.errors import SetupError


@dataclass(frozen=True)
class Spec:
    """Facts about one repository at one version.

    Attributes:
        parser: Name of the log parser.
        python: Version of Python.
        test: The test command in the published images.
        install: The command that installs the package there.
        setup: Commands that come before it.
        pins: Pinned requirements.
        release: About its source distributions: ``name`` on PyPI; ``path`` of the package in the
            tree; ``requires``, what the tests need beside the requirements of the package
            (``own``), its ``extras`` and requirement ``files``; ``since``, the earliest date of the
            packages; ``test``, the test command there. Or ``why_not``, if it cannot be rebuilt.
    """

    parser: str
    python: str
    test: str
    install: str = ""
    setup: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    release: Mapping[str, Any] | None = None


@cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files(__package__).joinpath("specs.json").read_text())


def spec(repo: str, version: str) -> Spec:
    """The facts about a repository. Raises SetupError if SWE-bench lacks it or its version."""
    table = _table()
    if repo not in table:
        raise SetupError(
            f"no test command is known for {repo!r}: rows need image, eval_script, log_parser and "
            f"eval_type, or one of the repositories {', '.join(sorted(table))}"
        )
    known = table[repo]
    for one in known["specs"]:
        if version in one["versions"]:
            facts = {key: value for key, value in one.items() if key != "versions"}
            for key in ("setup", "pins"):
                facts[key] = tuple(facts.get(key, ()))
            return Spec(parser=known["parser"], release=known["release"], **facts)
    versions = ", ".join(version for one in known["specs"] for version in one["versions"])
    raise SetupError(f"no test command is known for {repo} {version!r}: there are {versions}")
