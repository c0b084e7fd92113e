"""Who takes a turn follows from the state's key, and from nothing else."""

from __future__ import annotations

import math
import random

import pytest

from swe_gym_env.agents.base import Key, keyed_rng
from swe_gym_env.agents.mixers import PerTurnBeta, StudentOnly, TeacherOnly

KEYS: list[Key] = [
    (0, 1, f"task-{index // 20}", index % 2, index % 20, "mixer") for index in range(10_000)
]


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_realised_share_is_beta_within_three_sigma(beta: float) -> None:
    mixer = PerTurnBeta(beta)
    share = sum(mixer.executor(key) == "teacher" for key in KEYS) / len(KEYS)
    assert abs(share - beta) < 3 * math.sqrt(beta * (1 - beta) / len(KEYS))


def test_the_order_of_asking_changes_nothing() -> None:
    mixer = PerTurnBeta(0.5)
    asked = {key: mixer.executor(key) for key in KEYS}
    shuffled = random.Random(0).sample(KEYS, len(KEYS))
    assert {key: mixer.executor(key) for key in shuffled} == asked
    assert len({keyed_rng(key).random() for key in KEYS}) == len(set(KEYS))


def test_the_ends_are_exact() -> None:
    assert {PerTurnBeta(0.0).executor(key) for key in KEYS} == {"student"}
    assert {PerTurnBeta(1.0).executor(key) for key in KEYS} == {"teacher"}
    assert StudentOnly().executor(KEYS[0]) == "student"
    assert TeacherOnly().executor(KEYS[0]) == "teacher"


def test_beta_is_a_probability() -> None:
    with pytest.raises(ValueError, match="probability"):
        PerTurnBeta(1.5)
