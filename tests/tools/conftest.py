"""A sandbox with the toy repository, of every kind that this machine can start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swe_gym_env.sandbox.base import Sandbox, SandboxSpec
from tests.support.toy_tasks import PROVIDERS, real_provider, toy_task


@pytest.fixture(scope="module", params=PROVIDERS)
def sandbox(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    provider = real_provider(request.param)
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        task = toy_task(home)
        sandbox = provider.create(SandboxSpec(task.image, task.workdir))
        yield sandbox
        sandbox.close()
