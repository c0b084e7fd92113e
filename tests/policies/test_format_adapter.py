"""A teacher with another action format than the student, asked over real HTTP."""

from __future__ import annotations

import json

import pytest

from swe_gym_env import prompts
from swe_gym_env.actions import action_format
from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import State
from swe_gym_env.policies.format_adapter import FormatAdapter, in_form
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly, TeacherOnly
from swe_gym_env.types import ToolCall, Turn
from tests.policies.test_server import TASK, chat
from tests.policies.test_server import model as model
from tests.policies.test_server import policy as policy
from tests.support.toy_tasks import FINISH, FIX, real_provider, toy_task

pytestmark = pytest.mark.sandbox

HERMES = action_format("hermes_json", ["bash", "finish"])
BASH = action_format("bash_block")


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return toy_task(tmp_path)


def play(task, *, mixer, teacher, student):
    played = []
    rollout(
        [Request(task)],
        make_env=lambda task: SWEEnv([task], sandbox=real_provider("process"), grade="never"),
        student=student,
        teacher=teacher,
        mixer=mixer,
        annotate=True,
        on_episode=lambda *both: played.append(both),
    )
    [(episode, labels)] = played
    return episode, labels


def test_a_server_teaches_in_its_own_form_and_the_student_reads_its_own(model, policy, task):
    says = [ToolCall("bash", {"command": "sed -i 's/a - b/a + b/' calc.py"}), ToolCall("finish")]
    model.answer = lambda body, n: chat(HERMES.render(says[min(n, 2) - 1]))
    teacher = FormatAdapter(policy(), HERMES)
    episode, labels = play(task, mixer=TeacherOnly(), teacher=teacher, student=None)
    assert [turn.text for turn in episode.turns] == [FIX, FINISH]
    assert episode.system_prompt == prompts.system_prompt(BASH)
    assert [label.text for label in labels] == [FIX, FINISH] and not any(la.error for la in labels)
    sent = model.requests[1]["messages"]
    assert sent[0]["content"] == prompts.system_prompt(HERMES) != episode.system_prompt
    assert sent[2]["content"] == HERMES.render(says[0])
    assert sent[3]["content"] == episode.turns[1].observation


def test_what_it_says_in_another_form_is_a_state_without_a_label(model, policy, task):
    model.answer = lambda body, n: chat(FIX)  # the student's form, not its own
    student = ScriptedPolicy([FIX, FINISH], "student")
    teacher = FormatAdapter(policy(), HERMES)
    episode, labels = play(task, mixer=StudentOnly(), teacher=teacher, student=student)
    assert len(labels) == len(episode.turns) == 2
    assert all(label.text is None and label.error.startswith("format: ") for label in labels)


def test_a_call_that_the_student_cannot_say_is_a_state_without_a_label(model, policy, task):
    edit = ToolCall("str_replace_editor", {"command": "view", "path": "/testbed"})
    model.answer = lambda body, n: chat(action_format("hermes_json").render(edit))
    student = ScriptedPolicy([FINISH], "student")
    teacher = FormatAdapter(policy(), action_format("hermes_json"))
    _, [label] = play(task, mixer=StudentOnly(), teacher=teacher, student=student)
    assert label.text is None and "a bash block cannot say" in label.error


def test_a_history_is_written_again_and_ids_of_another_tokenizer_are_left_out():
    ran = Turn("Broken.", "student", FIX, BASH.parse(FIX), (1, 2), (-0.1, -0.2))
    malformed = Turn("(no output)", "student", "hm", None, (3,), (-0.3,))
    answer = prompts.format_mistake("no ```bash block", BASH)
    seen = in_form(State((0, 0, "t", 0, 2, "teacher"), TASK, "", (ran, malformed), answer), HERMES)
    assert HERMES.parse(seen.turns[0].text) == ran.action
    assert seen.turns[1].text == "hm" and not any(turn.token_ids for turn in seen.turns)
    assert seen.observation.startswith("Not run: ") and seen.observation.endswith(HERMES.example)
    assert "bash block" not in json.dumps(seen.messages)


def test_an_error_stays_an_error():
    from swe_gym_env.policies.base import Reply

    broken = ScriptedPolicy([Reply(error="HTTP 500")])
    state = State((0, 0, "t", 0, 0, "teacher"), TASK, "", (), "Broken.")
    assert FormatAdapter(broken, HERMES).act([state]) == [Reply(error="HTTP 500")]
