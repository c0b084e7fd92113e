"""A history that is too long is distinguished from every other refusal, on real servers that
answer as the known ones do; and what the model generated is its turn, whatever form it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import CONTEXT_FULL
from swe_gym_env.policies.server import ServerPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Episode, Turn
from tests.policies.test_server import Model, chat, model, policy, state
from tests.support.toy_tasks import real_provider, toy_task

__all__ = ["model", "policy"]  # fixtures


def flat(message: str, **more: Any) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "BadRequestError", "code": 400} | more


def nested(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None} | more}


# What servers answer to a history that is too long, and to what says nothing about the history
KNOWN = json.loads((Path(__file__).parent / "refusals.json").read_text())
TOO_LONG, OTHER = KNOWN["too_long"], KNOWN["other"]


def body(message: Any) -> bytes:
    """Text is sent as it is: not every refusal is JSON."""
    return (message if isinstance(message, str) else json.dumps(message)).encode()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", TOO_LONG)
def test_a_history_that_is_too_long_is_the_agents_limit(model, policy, name: str) -> None:
    status, message = TOO_LONG[name].values()
    model.answer = lambda sent, n: (status, body(message))
    [reply] = policy(max_tokens=1000).act([state()])
    assert reply.error.startswith(CONTEXT_FULL), reply.error
    assert len(model.requests) <= 2  # with fewer tokens, where the numbers leave room for some


@pytest.mark.parametrize("name", OTHER)
def test_any_other_refusal_is_not(model, policy, name: str) -> None:
    status, message = OTHER[name].values()
    model.answer = lambda sent, n: (status, body(message))
    [reply] = policy(max_tokens=1000).act([state()])
    assert reply.error.startswith(f"HTTP {status}"), reply.error
    assert len(model.requests) == 1


def length(sent: dict[str, Any]) -> int:
    return sum(len(message["content"]) for message in sent["messages"])


class Limited:
    """A server that takes 4000 characters, and refuses more in words that nobody knows."""

    def __init__(self, served: Model, refusal: Any = "nein", status: int = 400) -> None:
        self.served, self.refusal, self.status = served, refusal, status
        served.answer = self.answer

    def answer(self, sent: dict[str, Any], number: int) -> tuple[int, bytes]:
        if length(sent) > 4000:
            return self.status, json.dumps({"error": self.refusal}).encode()
        return chat("ok")


def test_a_refusal_in_foreign_words_is_tried_with_a_short_history(model, policy) -> None:
    for status in (400, 422):
        asked = policy()
        Limited(model, status=status)
        assert asked.act([state(observation="x" * 3000)])[0].text == "ok"
        model.requests.clear()
        [reply] = asked.act([state(turn=2, observation="x" * 5000)])
        assert reply.error.startswith(CONTEXT_FULL) and "nein" in reply.error
        long, short = model.requests
        assert [m["role"] for m in long["messages"]] == [m["role"] for m in short["messages"]]
        assert length(short) < length(long) / 2 and short["max_tokens"] == 1


def test_a_server_that_refuses_everything_from_now_on_is_not_full(model, policy) -> None:
    asked = policy()
    assert asked.act([state(observation="x" * 3000)])[0].text == "ok"
    model.answer = lambda sent, n: (400, b'{"error": "nein"}')
    [reply] = asked.act([state(observation="x" * 5000)])
    assert reply.error == 'HTTP 400: {"error": "nein"}'


def test_what_a_server_refuses_at_any_length_is_not_full(model, policy) -> None:
    asked = policy()
    assert asked.act([state(observation="x" * 5000)])[0].text == "ok"
    model.answer = lambda sent, n: (
        (400, b'{"error": "nein"}') if "secret" in sent["messages"][-1]["content"] else chat("ok")
    )
    [reply] = asked.act([state(observation="the secret word")])
    assert reply.error.startswith("HTTP 400")


def test_a_stated_limit_and_the_servers_own_count_decide(model, policy) -> None:
    """No request was taken before, or none that long: the list of models says what fits."""
    rows = [{"id": "small", "max_model_len": 1000}]
    model.models = 200, json.dumps({"data": rows}).encode()
    model.answer = lambda sent, n: (400, b'{"error": "nein"}')
    asked = policy(max_tokens=100)
    asked.check()
    assert asked.act([state(observation="x" * 5000)])[0].error.startswith(CONTEXT_FULL)
    assert asked.act([state(observation="x" * 500)])[0].error.startswith("HTTP 400")


def test_fewer_tokens_are_asked_for_where_some_fit(model, policy) -> None:
    message = (
        "This model's maximum context length is 2048 tokens. However, you requested 2500 tokens "
        "(1500 in the messages, 1000 in the completion)."
    )

    def answer(sent: dict[str, Any], number: int) -> tuple[int, bytes]:
        return (400, body(flat(message))) if sent["max_tokens"] > 548 else chat("short")

    model.answer = answer
    [reply] = policy(max_tokens=1000).act([state()])
    assert reply.text == "short" and [r["max_tokens"] for r in model.requests] == [1000, 548]
    anthropic = "input length and `max_tokens` exceed context limit: 1500 + 1000 > 2048"
    model.answer = lambda sent, n: (
        (400, body(nested(anthropic))) if sent["max_completion_tokens"] > 548 else chat("short")
    )
    [reply] = policy(max_tokens=1, extra={"max_completion_tokens": 1000}).act([state()])
    assert reply.text == "short", reply.error


def completion(message: dict[str, Any], ended: Any = "stop", **more: Any) -> tuple[int, bytes]:
    return 200, json.dumps(
        {"choices": [{"message": message, "finish_reason": ended}], **more}
    ).encode()


SAID = [
    (completion({"content": None}, "length"), ""),
    (completion({"content": None, "reasoning_content": "hm " * 50}, "length"), ""),
    (completion({"content": None, "reasoning": "```bash\nls\n```"}, "stop"), ""),
    (completion({"role": "assistant"}, "length"), ""),
    (completion({"content": None}, "content_filter"), ""),
    (completion({"content": None}, "stop", usage={"completion_tokens": 9}), ""),
    (completion({"content": ""}, "length"), ""),
    (completion({"content": "half", "reasoning_content": "no"}, "length"), "half"),
    (completion({"content": "ok"}, None), "ok"),
    (completion({"content": None, "refusal": "I cannot do that."}), "I cannot do that."),
    (
        completion({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        "ab",
    ),
    (
        completion(
            {"content": [{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "b"}]}
        ),
        "b",
    ),
    (completion({"content": [{"type": "thinking", "thinking": "no"}]}, "length"), ""),
]


@pytest.mark.parametrize(("answer", "text"), SAID)
def test_whatever_was_generated_is_the_turn(model, policy, answer, text: str) -> None:
    model.answer = lambda sent, n: answer
    [reply] = policy().act([state()])
    assert (reply.text, reply.error, len(model.requests)) == (text, "", 1)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b'{"choices": []}'),
        (200, b"<html>welcome</html>"),
        (200, b'{"choices": [{"message": {"content": "hal'),
        (200, b"null"),
        (200, b"[]"),
        completion({"content": "half"}, "abort"),
        completion({"content": ""}, "error"),
        (200, b'{"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {}}]}'),
        (200, b'{"error": {"code": 429, "message": "slow down"}}'),
        (200, b'{"error": {"code": 503, "message": "overloaded"}}'),
    ],
)
def test_an_answer_without_a_turn_is_the_servers_fault(model, policy, answer) -> None:
    model.answer = lambda sent, n: answer if n < 3 else chat("at last")
    assert policy().act([state()])[0].text == "at last" and len(model.requests) == 3


def test_a_call_that_the_server_read_out_is_the_turn(model, policy) -> None:
    function = {"name": "bash", "arguments": '{"command": "ls"}'}
    calls = [{"type": "function", "function": function}]
    model.answer = lambda sent, n: completion({"content": None, "tool_calls": calls}, "tool_calls")
    [reply] = policy().act([state()])
    assert reply.action is not None and reply.action.arguments == {"command": "ls"}
    model.answer = lambda sent, n: completion({"content": "So.", "tool_calls": calls * 2})
    [reply] = policy().act([state()])
    assert reply.action is None and '"tool_calls"' in str(reply.text)


def played(url: str, monkeypatch, tmp_path, form: str = "bash_block") -> tuple[Episode, list[Turn]]:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    task, ended = toy_task(tmp_path), []
    rollout(
        [Request(task)],
        make_env=lambda task: SWEEnv(
            [task], sandbox=real_provider("process"), action_format=form, max_turns=4
        ),
        student=ServerPolicy(url, "small", pause=0.01),
        mixer=StudentOnly(),
        annotate=False,
        on_episode=lambda episode, _: ended.append(episode),
    )
    return ended[0], list(ended[0].turns)


@pytest.mark.sandbox
def test_an_episode_ends_scored_where_its_history_is_full(model, monkeypatch, tmp_path) -> None:
    model.answer = lambda sent, n: (400, body(flat("max_tokens must be at least 1, got -3.")))
    episode, _ = played(model.url, monkeypatch, tmp_path)
    assert episode.stop_reason == "context_full" and len(model.requests) == 1
    assert episode.outcome.status == "empty_patch" and not episode.outcome.mask


@pytest.mark.sandbox
def test_thoughts_that_use_up_all_tokens_are_malformed_turns(model, monkeypatch, tmp_path) -> None:
    message = {"content": None, "reasoning_content": "```bash\nls\n```"}
    model.answer = lambda sent, n: completion(message, "length")
    episode, turns = played(model.url, monkeypatch, tmp_path)
    assert episode.stop_reason == "max_format_errors" and not episode.outcome.mask
    assert len(model.requests) == len(turns) == 3 and {turn.text for turn in turns} == {""}


@pytest.mark.sandbox
@pytest.mark.parametrize("form", ["bash_block", "hermes_json", "openai_tools", "xml"])
def test_a_call_of_the_server_is_stored_in_the_format(model, monkeypatch, tmp_path, form) -> None:
    function = {"name": "bash", "arguments": json.dumps({"command": "ls"})}
    message = {"content": None, "tool_calls": [{"type": "function", "function": function}]}
    model.answer = lambda sent, n: completion(message)
    _, turns = played(model.url, monkeypatch, tmp_path, form)
    assert turns[0].action is not None and turns[0].action.arguments == {"command": "ls"}
    unknown = [{"type": "function", "function": {"name": "str_replace_editor", "arguments": "{}"}}]
    model.answer = lambda sent, n: completion({"content": None, "tool_calls": unknown})
    episode, turns = played(model.url, monkeypatch, tmp_path / "again", form)
    assert not episode.outcome.mask and (form == "bash_block") == (turns[0].action is None)


@pytest.mark.sandbox
def test_half_an_emoji_of_a_student_is_repaired(model, monkeypatch, tmp_path) -> None:
    model.answer = lambda sent, n: (
        200,
        b'{"choices": [{"message": {"content": "Look \\ud83d\\n```bash\\nls\\n```"}}]}',
    )
    _, turns = played(model.url, monkeypatch, tmp_path)
    assert turns[0].text == "Look \ufffd\n```bash\nls\n```" and turns[0].action is not None
