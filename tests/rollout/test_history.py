"""The history window: what a policy sees of a long episode, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import State
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.history import windowed
from swe_gym_env.rollout.mixers import PerTurnBeta, StudentOnly
from swe_gym_env.types import Episode, TaskInstance, Turn
from tests.support.toy_tasks import FINISH, real_provider, toy_task

pytestmark = pytest.mark.sandbox


@pytest.fixture
def task(tmp_path, monkeypatch) -> Iterator[TaskInstance]:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    yield toy_task(tmp_path)


def play(task: TaskInstance, history: int | None, beta: float = 0.0) -> tuple[Episode, list[State]]:
    """Four commands with outputs of 100, 200, 300 and 400 characters, then the end."""
    states: list[State] = []
    played: list[Episode] = []

    def act(state: State) -> str:
        states.append(state)
        turn = len(state.turns)
        return FINISH if turn == 4 else f"```bash\nprintf %0{100 * (turn + 1)}d 0\n```"

    rollout(
        [Request(task)],
        make_env=lambda task: SWEEnv([task], sandbox=real_provider("local"), grade="never"),
        student=ScriptedPolicy(act),
        teacher=ScriptedPolicy(act),
        mixer=PerTurnBeta(beta) if beta else StudentOnly(),
        annotate=False,
        history=history,
        on_episode=lambda episode, _: played.append(episode),
    )
    return played[0], states


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_old_observations_are_left_out_of_what_is_seen_and_kept_in_the_episode(task, beta) -> None:
    episode, states = play(task, 2, beta)
    seen = [message["content"] for message in states[-1].messages if message["role"] == "user"]
    assert task.problem_statement in seen[0]
    assert seen[1:] == [
        "(output of an earlier command, 100 characters, left out)",
        "(output of an earlier command, 200 characters, left out)",
        "0" * 300,
        "0" * 400,
    ]
    texts = [
        message["content"] for message in states[-1].messages if message["role"] == "assistant"
    ]
    assert texts == [turn.text for turn in episode.turns[:4]]
    assert [len(turn.observation) for turn in episode.turns[1:]] == [100, 200, 300, 400]
    assert episode.metadata["history"] == 2


def test_without_a_window_nothing_changes(task) -> None:
    episode, states = play(task, None)
    assert [state.turns for state in states] == [states[-1].turns[:n] for n in range(5)]
    assert len(states[-1].turns[1].observation) == 100 and "history" not in episode.metadata
    _, wide_states = play(task, 99)
    assert [state.messages for state in wide_states] == [state.messages for state in states]


def test_a_window_of_one_shows_the_task_and_the_newest(task) -> None:
    _, states = play(task, 1)
    kept = [turn.observation for turn in states[3].turns]
    assert task.problem_statement in kept[0] and all("left out" in text for text in kept[1:])
    assert states[3].observation == "0" * 300


def test_short_observations_stay() -> None:
    turns = [Turn(text, "student", "x") for text in ("task", "(no output)", "y" * 500, "z")]
    assert [turn.observation[:10] for turn in windowed(turns, 1)] == [
        *("task", "(no output", "(output of", "z")
    ]


def test_a_window_of_nothing_is_refused(task) -> None:
    with pytest.raises(SetupError, match="history=0: it is 1 or more"):
        play(task, 0)
