"""ServerPolicy against a real HTTP server that speaks the API, and then misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import CONTEXT_FULL, State
from swe_gym_env.policies.server import ServerPolicy
from swe_gym_env.types import TaskInstance, Turn

TASK = TaskInstance("toy-1", "toy", "", "toy", "Broken.", "", "", (), (), "")
Answer = tuple[int, bytes]


def state(turn: int = 0, repeat: int = 0, observation: str = "Broken.") -> State:
    turns = tuple(Turn(f"seen {n}", "student", f"said {n}") for n in range(turn))
    return State((0, 0, "toy-1", repeat, turn, "student"), TASK, "Be brief.", turns, observation)


def chat(text: str | None) -> Answer:
    message = {"role": "assistant", "content": text}
    return 200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()


class Model:
    """A server on a free port. ``answer`` gets each request's body and its number."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, n: chat("ok")
        self.headers: dict[str, str] = {}  # of every answer, beside its length
        self.models: Answer = 200, b'{"object": "list", "data": [{"id": "small"}]}'
        lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/v1/models"
                self._send(model.models)

            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    model.requests.append(body)
                    model.keys.append(self.headers.get("Authorization"))
                    number = len(model.requests)
                    model.at_once += 1
                    model.most_at_once = max(model.most_at_once, model.at_once)
                try:
                    self._send(model.answer(body, number))
                finally:
                    with lock:
                        model.at_once -= 1

            def _send(self, answer: Answer) -> None:
                status, content = answer
                try:
                    if status == 0:  # hang up
                        self.connection.close()
                        return
                    self.send_response(status)
                    for name, value in model.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client went away

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def model() -> Iterator[Model]:
    served = Model()
    yield served
    served.close()


@pytest.fixture
def policy(model: Model) -> Iterator[Callable[..., ServerPolicy]]:
    made: list[ServerPolicy] = []

    def build(**options: Any) -> ServerPolicy:
        settings = {"pause": 0.01, "retries": 2, "timeout": 5.0, **options}
        made.append(ServerPolicy(model.url, "small", **settings))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_the_history_is_sent_and_the_text_comes_back(model, policy, monkeypatch) -> None:
    monkeypatch.setenv("TOY_KEY", "secret")
    model.answer = lambda body, n: chat(f"re: {body['messages'][-1]['content']}")
    asked = policy(api_key_env="TOY_KEY", temperature=0.7, max_tokens=9, extra={"top_p": 0.5})
    [reply] = asked.act([state(turn=1, observation="now")])
    assert reply.text == "re: now" and not reply.error and reply.policy_version == "small"
    assert reply.seconds > 0 and model.keys == ["Bearer secret"]
    body = model.requests[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "seen 0"},
        {"role": "assistant", "content": "said 0"},
        {"role": "user", "content": "now"},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"]) == (
        ("small", 0.7, 9, 0.5)
    )


def test_requests_run_side_by_side_and_answers_keep_their_order(model, policy) -> None:
    def slow(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.2)
        return chat(body["messages"][-1]["content"])

    model.answer = slow
    began = time.monotonic()
    replies = policy(concurrency=4).act([state(observation=str(n)) for n in range(8)])
    assert [reply.text for reply in replies] == [str(n) for n in range(8)]
    assert 2 <= model.most_at_once <= 4 and time.monotonic() - began < 1.5


def test_a_turn_is_one_request(model, policy) -> None:
    asked = policy()
    before = len(model.requests)
    for turn in range(3):
        asked.act([state(turn=turn), state(turn=turn, repeat=1)])
    assert len(model.requests) - before == 6
    assert [len(body["messages"]) for body in model.requests[before::2]] == [2, 4, 6]


def test_the_seed_follows_from_the_state_alone(model, policy) -> None:
    policy(concurrency=1).act([state(repeat=0), state(repeat=1), state(repeat=0)])
    seeds = [body["seed"] for body in model.requests]
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize(
    "trouble",
    [
        (500, b"oops"),
        (503, b""),
        (429, b"slow down"),
        (200, b"<html>"),
        (200, b'{"x": 1}'),
        (0, b""),
    ],
)
def test_what_can_pass_is_tried_again(model, policy, trouble: Answer) -> None:
    model.answer = lambda body, n: trouble if n < 3 else chat("at last")
    [reply] = policy().act([state()])
    assert reply.text == "at last" and len(model.requests) == 3


def test_a_server_that_asks_for_a_pause_gets_it(model, policy) -> None:
    model.headers["Retry-After"] = "1"
    model.answer = lambda body, n: (429, b"slow down") if n == 1 else chat("at last")
    began = time.monotonic()
    [reply] = policy().act([state()])
    assert reply.text == "at last" and time.monotonic() - began >= 1


def test_what_does_not_pass_is_the_error_of_one_reply(model, policy) -> None:
    model.answer = lambda body, n: (
        (500, b"oops") if body["messages"][-1]["content"] == "bad" else chat("fine")
    )
    good, bad = policy().act([state(observation="good"), state(observation="bad")])
    assert good.text == "fine" and bad.text is None
    assert "HTTP 500: oops (tried 3 times)" in bad.error


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, b'{"error": "bad temperature"}'), "HTTP 400"),
        ((401, b"who are you"), "HTTP 401"),
        ((404, b"no such model"), "HTTP 404"),
        ((400, b"This model's maximum context length is 2048 tokens"), CONTEXT_FULL),
        ((400, b'{"error": {"code": "context_length_exceeded"}}'), CONTEXT_FULL),
    ],
)
def test_a_refusal_is_not_repeated(model, policy, answer: Answer, error: str) -> None:
    model.answer = lambda body, n: answer
    [reply] = policy().act([state()])
    assert reply.error.startswith(error) and len(model.requests) == 1


def test_a_server_that_hangs_runs_into_the_time_limit(model, policy) -> None:
    def hang(body: dict[str, Any], number: int) -> Answer:
        time.sleep(1.0 if number == 1 else 0)
        return chat("late")

    model.answer = hang
    [reply] = policy(timeout=0.3).act([state()])
    assert reply.text == "late" and len(model.requests) == 2
    model.requests.clear()
    [reply] = policy(timeout=0.3, retries=0).act([state()])
    assert "ReadTimeout" in reply.error


def test_an_answer_without_text_is_an_error(model, policy) -> None:
    model.answer = lambda body, n: chat(None)
    assert "no text" in policy(retries=0).act([state()])[0].error


def test_text_that_utf8_cannot_express_is_still_sent(model, policy) -> None:
    assert policy().act([state(observation="a\ud800b")])[0].text == "ok"
    assert model.requests[0]["messages"][-1]["content"] == "a\ud800b"


def test_a_server_that_cannot_be_used_is_said_at_the_start(model, policy) -> None:
    policy().check()
    model.models = 404, b""  # not every server lists its models
    policy().check()
    model.models = 200, b'{"data": [{"id": "other"}]}'
    with pytest.raises(SetupError, match="serves other, not 'small'"):
        policy().act([state()])
    model.models = 401, b""
    with pytest.raises(SetupError, match="set OPENAI_API_KEY"):
        policy().check()
    nobody = ServerPolicy("http://127.0.0.1:9/v1", "small")
    with pytest.raises(SetupError, match="no model server answers at http://127"):
        nobody.act([state()])


def test_a_server_that_dies_in_mid_run_is_an_error_not_an_exception(model, policy) -> None:
    asked = policy(retries=1)
    assert asked.act([state()])[0].text == "ok"
    model.close()
    assert "Connect" in asked.act([state(turn=1)])[0].error
