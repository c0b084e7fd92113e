"""A model in this process plays real episodes: in float32 they are the same however many others are
in play, in whatever order, in fixed batches or independently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms.engine.hf_policy import HFPolicy
from swe_gym_env.env import SWEEnv
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import PerTurnBeta
from swe_gym_env.types import Episode
from tests.algorithms.conftest import tiny_model
from tests.rollout.test_driver import TEACHER
from tests.support.toy_tasks import copies, real_provider, toy_task

pytestmark = pytest.mark.sandbox


def plain(episode: Episode) -> tuple[Any, ...]:
    """What must be the same: all but times, and log-probs to the last digits."""
    turns = [
        replace(turn, logprobs=(), act_seconds=0.0, step_seconds=0.0) for turn in episode.turns
    ]
    return (turns, episode.stop_reason, episode.patch)


@pytest.mark.slow
def test_episodes_do_not_depend_on_what_is_played_beside_them(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    tasks, provider = copies(toy_task(tmp_path), 3), real_provider("process")
    model = tiny_model(len(tokenizer))

    def play(reverse: bool = False, rows: int = 4, **options: Any) -> dict[str, Episode]:
        played: dict[str, Episode] = {}
        requests = [Request(task, seed=5, repeat=repeat) for task in tasks for repeat in range(2)]
        policy = HFPolicy(
            model, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=10, batch_size=rows
        )
        rollout(
            requests[::-1] if reverse else requests,
            make_env=lambda task: SWEEnv([task], sandbox=provider, grade="never", max_turns=4),
            student=policy,
            teacher=TEACHER,
            mixer=PerTurnBeta(0.4),
            annotate=False,
            on_episode=lambda episode, _: played.update({episode.episode_id: episode}),
            **options,
        )
        policy.close()
        return played

    alone = play(concurrency=1)
    assert len(alone) == 6 and any(len(episode.turns) == 4 for episode in alone.values())
    ways = (
        {"concurrency": 6},
        {"concurrency": 5, "reverse": True, "rows": 2},
        {"concurrency": 4, "fixed_batches": True},
    )
    for way in ways:
        others = play(**way)  # type: ignore[arg-type]
        for name, episode in alone.items():
            assert plain(others[name]) == plain(episode), (way, name)
            pairs = zip(others[name].turns, episode.turns, strict=True)
            assert all(one.logprobs == pytest.approx(two.logprobs, abs=1e-4) for one, two in pairs)
