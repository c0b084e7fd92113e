"""No policy is shown the gold patch or the hidden tests, unless it declares that it needs them."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from swe_gym_env.actions import action_format
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.policies.budget import Account, Budget, Budgeted, Spent
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.policies.format_adapter import FormatAdapter
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly, TeacherOnly
from swe_gym_env.types import Episode, TaskInstance, TaskView, ToolCall
from tests.support.toy_tasks import FINISH, GOLD, LOOK, real_provider, toy_task

pytestmark = pytest.mark.sandbox

HIDDEN_TEST = """diff --git a/test_hidden.py b/test_hidden.py
new file mode 100644
--- /dev/null
+++ b/test_hidden.py
@@ -0,0 +1 @@
+def test_of_the_secret(): ...
"""
SECRETS = ("return a + b", "hidden_name", "SECRET_SCRIPT", "secret_note", "test_of_the_secret")


@pytest.fixture
def task(tmp_path, monkeypatch) -> TaskInstance:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return replace(
        toy_task(tmp_path),
        gold_patch=GOLD,
        test_patch=HIDDEN_TEST,
        fail_to_pass=("test_calc.py::hidden_name",),
        eval_script="SECRET_SCRIPT",
        metadata={"hint": "secret_note"},
    )


def reachable(start: Any) -> Iterator[Any]:
    """Every value that can be had from ``start`` by attributes, items and iteration."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType)):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, (str, bytes, int, float)) or callable(value):
            continue
        waiting += list(getattr(value, "__dict__", {}).values())
        for kind in type(value).__mro__:
            names = getattr(kind, "__slots__", ())
            for name in [names] if isinstance(names, str) else names:
                waiting.append(getattr(value, name, None))
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += list(value)


def leaks(value: Any) -> list[str]:
    texts = [repr(one) for one in reachable(value) if isinstance(one, (str, bytes))]
    texts += [repr(value), repr(pickle.dumps(value, protocol=0)) if _plain(value) else ""]
    return [secret for secret in SECRETS if any(secret in text for text in texts)]


def _plain(state: State) -> bool:
    return state.sandbox is None  # a sandbox cannot be pickled


class Nosy:
    """Takes a look at all that it is given, then answers like ``lead``."""

    def __init__(self, needs_sandbox: bool = False, **more: Any) -> None:
        self.name, self.needs_sandbox = "nosy", needs_sandbox
        vars(self).update(more)
        self.found: list[str] = []
        self.states: list[State] = []

    def act(self, states: Sequence[State]) -> list[Reply]:
        self.states += states
        self.found += [leak for state in states for leak in leaks(state)]
        return [Reply(text=LOOK if len(state.turns) < 1 else FINISH) for state in states]


def play(task: TaskInstance, student: Any, teacher: Any = None, mixer: Any = None) -> Episode:
    ended: list[Episode] = []
    rollout(
        [Request(task)],
        make_env=lambda task: SWEEnv([task], sandbox=real_provider("process"), grade="never"),
        student=student,
        teacher=teacher,
        mixer=mixer or StudentOnly(),
        annotate=teacher is not None,
        on_episode=lambda episode, _: ended.append(episode),
    )
    return ended[0]


@pytest.mark.parametrize("needs_sandbox", [False, True])
def test_a_student_finds_nothing_of_the_answer(task, needs_sandbox: bool) -> None:
    assert leaks(State(("k",), task, "", (), "")) == list(SECRETS), "the search finds what is there"
    nosy = Nosy(needs_sandbox)
    play(task, nosy)
    assert len(nosy.states) == 2 and nosy.found == []
    seen = nosy.states[0].task
    assert isinstance(seen, TaskView) and not isinstance(seen, TaskInstance)
    assert (seen.instance_id, seen.workdir) == (task.instance_id, task.workdir)
    assert seen.problem_statement == task.problem_statement
    assert (nosy.states[0].sandbox is not None) == needs_sandbox
    with pytest.raises(AttributeError):
        seen.gold_patch  # noqa: B018


@pytest.mark.parametrize("wrap", ["plain", "budget", "translated", "both", "late"])
def test_a_wrapped_teacher_is_shown_what_it_declares(task, wrap: str) -> None:
    def wrapped(policy: Any) -> Any:
        if wrap == "late":
            return LazyPolicy(lambda: policy, "late")
        if wrap in ("budget", "both"):
            policy = Budgeted(policy, Account(Budget(), Spent()), len)
        if wrap in ("translated", "both"):
            policy = FormatAdapter(policy, action_format("bash_block"))
        return copy.copy(policy)

    nosy = Nosy()
    play(task, ScriptedPolicy([LOOK, FINISH]), wrapped(nosy), TeacherOnly())
    assert len(nosy.states) == 2 and nosy.found == []
    if wrap != "late":
        informed = Nosy(needs_answer=True)
        play(task, ScriptedPolicy([LOOK, FINISH]), wrapped(informed), TeacherOnly())
        assert all(state.task is task for state in informed.states) and len(informed.states) == 2


def test_the_expert_declares_it_and_the_student_beside_it_learns_nothing(task) -> None:
    assert ExpertPolicy.needs_answer is True
    nosy = Nosy()
    episode = play(task, nosy, Budgeted(ExpertPolicy(), Account(Budget(), Spent()), len))
    assert len(episode.turns) == 2 and nosy.found == []
    [reply] = ExpertPolicy().act([replace(nosy.states[0], sandbox=object())])  # type: ignore[arg-type]
    assert "needs the gold patch" in reply.error


def test_a_declaration_that_is_no_bool_is_refused(task) -> None:
    with pytest.raises(SetupError, match="needs_answer='no', but it is True or False"):
        play(task, Nosy(needs_answer="no"))


def test_what_the_environment_shows_an_agent_holds_no_answer(task) -> None:
    env = SWEEnv([task], sandbox=real_provider("process"), grade="never")
    observation, info = env.reset(seed=0)
    assert not leaks_in(observation, info)
    for action in (LOOK, "no call", "```bash\nexport -p; set\n```", FINISH):
        observation, _, _, _, info = env.step(action)
        assert not leaks_in(observation, info)
    env.close()


def leaks_in(*values: Any) -> list[str]:
    return [secret for secret in SECRETS if any(secret in repr(value) for value in values)]


def test_a_label_is_refused_where_it_cannot_be_learned() -> None:
    from swe_gym_env.rollout.turns import label

    form, key = action_format("bash_block"), ("e", 0, "server")
    half = label(Reply(text="Look \ud83d\n```bash\nls\n```"), form, key)
    assert half.text is None and half.error == (
        "format: the text holds half a character (a lone surrogate)"
    )
    call = ToolCall("bash", {"command": "echo \udc00"})
    assert label(Reply(action=call), form, key).text is None
    assert "NUL" in label(Reply(text="```bash\nls\0\n```"), form, key).error
    whole = label(Reply(text="Look \ud83d\ude00\n```bash\nls\n```"), form, key)
    assert whole.text == "Look 😀\n```bash\nls\n```"
    assert label(Reply(text="Look.\r\n```bash\r\nls\r\n```\r\n"), form, key).text == (
        "Look.\n```bash\nls\n```"
    )
