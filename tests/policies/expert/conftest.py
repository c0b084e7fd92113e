"""A separate local store for each test, and the sandbox that students may do anything in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swe_gym_env.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.sandbox.local import LocalProvider


class Kept(LocalProvider):
    """Remembers its sandboxes, so that a test need not close them."""

    def __init__(self) -> None:
        super().__init__()
        self.sandboxes: list[Sandbox] = []

    def create(self, spec: SandboxSpec) -> Sandbox:  # type: ignore[override]
        self.sandboxes.append(super().create(spec))
        return self.sandboxes[-1]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxProvider]:
    """Only what isolates will do: the commands of the tests would wreck this machine."""
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    provider = Kept()
    if reason := provider.unavailable():
        pytest.skip(reason)
    yield provider
    for sandbox in provider.sandboxes:
        sandbox.close()
