"""Nodes of a Ray cluster on a busy machine, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 seconds to start, which a busy machine does not always keep."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()
