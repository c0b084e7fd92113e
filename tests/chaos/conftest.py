"""One zygote and one undisturbed run for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chaos.driver import Zygote
from tests.support.chaos.faults import Arena
from tests.support.toy_tasks import real_provider


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="session")
def arena(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Arena:
    real_provider("local")
    return Arena(tmp_path_factory.mktemp("arena"), zygote)
