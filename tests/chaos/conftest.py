"""One undisturbed run for the whole suite, and the warm interpreter from which runs are forked."""

from __future__ import annotations

import pytest

from tests.support import warm
from tests.support.chaos.faults import Arena
from tests.support.toy_tasks import real_provider
from tests.support.warm import WarmInterpreter


@pytest.fixture(scope="session")
def interpreter() -> WarmInterpreter:
    return warm.interpreter()


@pytest.fixture(scope="session")
def arena(interpreter: WarmInterpreter, tmp_path_factory: pytest.TempPathFactory) -> Arena:
    real_provider("local")
    return Arena(tmp_path_factory.mktemp("arena"), interpreter)
