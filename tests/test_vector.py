"""Vector environments made by ``gymnasium.make_vec`` with nothing but a list of tasks."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from swe_gym_env.spaces import AnyText
from tests.support.toy_tasks import FINISH, FIX, real_provider, toy_task

pytestmark = pytest.mark.sandbox

ODD = "```bash\necho 'é 😀, {}'\n```"
START = "add(1, 2) returns -1"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("reset", list(AutoresetMode))
def test_make_vec_works_as_it_is(mode: str, reset: AutoresetMode, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    more: dict[str, Any] = {"vector_kwargs": {"autoreset_mode": reset}}
    envs = RecordEpisodeStatistics(
        gymnasium.make_vec(
            "swe_gym_env:SWE-v0",
            num_envs=2,
            vectorization_mode=mode,
            tasks=[toy_task(tmp_path)],
            sandbox=real_provider("process"),
            **({} if reset == AutoresetMode.NEXT_STEP else more),
        )
    )
    observations, info = envs.reset(seed=1)
    assert len(observations) == 2 and all(text.startswith(START) for text in observations)
    first = observations
    observations, *_ = envs.step((FIX, ODD))
    assert tuple(observations) == ("(no output)", "é 😀, {}")
    assert first[0].startswith(START), "what was given out does not change"
    observations, rewards, terminated, _, info = envs.step((FINISH, ODD))
    assert rewards.tolist() == [1.0, 0.0] and terminated.tolist() == [True, False]
    assert info["episode"]["r"][0] == 1.0
    if reset == AutoresetMode.SAME_STEP:
        assert observations[0].startswith(START) and info["final_obs"][0] == "(finished)"
        assert info["final_info"]["outcome"][0].resolved
    else:
        assert observations[0] == "(finished)" and info["outcome"][0].resolved
        if reset == AutoresetMode.DISABLED:
            mask = {"reset_mask": np.array([True, False])}
            observations, _ = envs.reset(options=mask)
        else:
            observations, *_ = envs.step(("ignored", ODD))
        assert observations[0].startswith(START)
    envs.close()


def test_any_text_goes_through_shared_memory() -> None:
    space = AnyText(40)
    memory = create_shared_memory(space, n=3)
    shown = read_from_shared_memory(space, memory, n=3)
    assert tuple(shown) == ("", "", "")
    texts = ["a" * 40, ", \n\t\0é😀", "\ud800"]
    for place, text in enumerate(texts):
        write_to_shared_memory(space, place, text, memory)
    kept = copy.deepcopy(shown)
    assert kept == tuple(texts) == tuple(shown) and len(shown) == 3 and shown[1:] == kept[1:]
    write_to_shared_memory(space, 0, "b", memory)
    assert shown[0] == "b" and kept[0] == texts[0] and shown[-1] == texts[-1]
