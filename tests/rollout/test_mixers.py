"""Who takes a turn follows from the state's key, and from nothing else."""

from __future__ import annotations

import math
import random

import pytest

from swe_gym_env.policies.base import Key, keyed_rng
from swe_gym_env.rollout.mixers import (
    Mixer,
    PerEpisodeBeta,
    PerTurnBeta,
    SingleSwitch,
    StudentOnly,
    TeacherOnly,
)

KEYS: list[Key] = [
    (0, 1, f"task-{index // 20}", index % 2, index % 20, "mixer") for index in range(10_000)
]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_realized_share_is_beta_within_three_sigma(beta: float) -> None:
    mixer = PerTurnBeta(beta)
    share = sum(mixer.actor(key) == "teacher" for key in KEYS) / len(KEYS)
    assert abs(share - beta) < 3 * math.sqrt(beta * (1 - beta) / len(KEYS))


# As many episodes as KEYS has turns, each seen at its first turns
EPISODES = [
    [(0, 1, f"task-{n // 4}", n % 4, turn, "mixer") for turn in range(6)] for n in range(10_000)
]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_a_whole_episode_is_one_executors(beta: float) -> None:
    mixer = PerEpisodeBeta(beta)
    acted = [{mixer.actor(key) for key in keys[:2]} for keys in EPISODES]
    assert all(len(actors) == 1 for actors in acted)
    share = acted.count({"teacher"}) / len(acted)
    assert abs(share - beta) < 3 * math.sqrt(beta * (1 - beta) / len(acted))


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 4, 20])
def test_the_switch_is_uniform_and_happens_once(most: int) -> None:
    mixer = SingleSwitch(most)
    kappas = [mixer.kappa(keys[0]) for keys in EPISODES]
    assert set(kappas) == set(range(most + 1))
    sigma = math.sqrt(((most + 1) ** 2 - 1) / 12 / len(kappas))
    assert abs(sum(kappas) / len(kappas) - most / 2) < 3 * sigma
    for keys, kappa in zip(EPISODES[:500], kappas, strict=False):
        acted = [mixer.actor(key) for key in keys]
        assert acted == ["student"] * min(kappa, 6) + ["teacher"] * max(6 - kappa, 0)


@pytest.mark.slow
def test_a_switch_at_the_ends_is_teacher_only_or_student_only() -> None:
    assert {SingleSwitch(0).actor(key) for key in KEYS} == {"teacher"}
    far = SingleSwitch(100_000)
    late = [keys for keys in EPISODES[:500] if far.kappa(keys[0]) >= len(keys)]
    assert len(late) > 490 and {far.actor(key) for keys in late for key in keys} == {"student"}
    with pytest.raises(ValueError, match="turn 0 or later"):
        SingleSwitch(-1)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", [PerTurnBeta(0.5), PerEpisodeBeta(0.5), SingleSwitch(20)])
def test_the_order_of_asking_changes_nothing(mixer: Mixer) -> None:
    asked = {key: mixer.actor(key) for key in KEYS}
    shuffled = random.Random(0).sample(KEYS, len(KEYS))
    assert {key: mixer.actor(key) for key in shuffled} == asked
    assert len({keyed_rng(key).random() for key in KEYS}) == len(set(KEYS))


@pytest.mark.slow
def test_the_ends_are_exact() -> None:
    assert {PerTurnBeta(0.0).actor(key) for key in KEYS} == {"student"}
    assert {PerTurnBeta(1.0).actor(key) for key in KEYS} == {"teacher"}
    assert StudentOnly().actor(KEYS[0]) == "student"
    assert TeacherOnly().actor(KEYS[0]) == "teacher"


def test_beta_is_a_probability() -> None:
    with pytest.raises(ValueError, match="probability"):
        PerTurnBeta(1.5)
