"""The attacked tasks, made once for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swe_gym_env import paths
from swe_gym_env.sandbox import SandboxProvider
from swe_gym_env.tasks.pypi import fetch
from swe_gym_env.tasks.pypi.catalog import PYTEST
from swe_gym_env.types import TaskInstance
from tests.support.attacks import make_tasks
from tests.support.toy_tasks import real_provider
from tests.tasks.tiny import own_store


@pytest.fixture(scope="module")
def suites(
    tmp_path_factory: pytest.TempPathFactory, pip_environment: None
) -> Iterator[dict[str, TaskInstance]]:
    env = fetch.environment_for("tiny", PYTEST)
    home = own_store(tmp_path_factory.mktemp("attacks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield make_tasks(home, str(paths.home() / "envs" / env.name))


@pytest.fixture(scope="module")
def sandboxes() -> SandboxProvider:
    return real_provider("local")
