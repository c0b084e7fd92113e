"""A served teacher's scores are those of the same model in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from algorithms.engine.rendering import Renderer, Thinking
from algorithms.engine.scorer import HFScorer
from algorithms.serving.scorer import ServedScorer
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, tiny_model, tiny_tokenizer
from tests.algorithms.families import family
from tests.algorithms.test_thinking import thoughtful

LONGEST = 4000  # tokens that the server reads


class Server:
    """Answers as vLLM does, by a tiny model: ``/detokenize`` and ``prompt_logprobs``."""

    def __init__(self, tokenizer: Any) -> None:
        self.model, self.tokenizer = tiny_model(len(tokenizer)).eval(), tokenizer
        self.prompts: list[list[int]] = []
        self.broken = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/detokenize":
            return 200, {"prompt": self.tokenizer.decode(body["tokens"])}
        assert path == "/v1/completions"
        if self.broken:
            return 404, {"error": "no such model"}
        ids = body["prompt"]
        if len(ids) > LONGEST:
            return 400, {"error": f"the maximum context length is {LONGEST}"}
        self.prompts.append(ids)
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return 200, {"choices": [{"prompt_logprobs": self._likely(ids, logprobs, body)}]}

    def _likely(self, ids: list[int], logprobs: torch.Tensor, body: dict[str, Any]) -> list[Any]:
        """The token that stands there and the k most likely, in no order."""
        found: list[Any] = [None]
        for place, token in enumerate(ids[1:]):
            wanted = {token, *logprobs[place].topk(body["prompt_logprobs"]).indices.tolist()}
            found.append({str(id): {"logprob": logprobs[place, id].item()} for id in wanted})
        return found


@pytest.fixture
def server(tokenizer: Any) -> Iterator[Server]:
    made = Server(tokenizer)
    yield made
    made.http.shutdown()


def scorer(server: Server, renderer: Renderer) -> ServedScorer:
    return ServedScorer(server.url, "teacher", renderer, name="teacher", retries=0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("top_k", [0, 4])
@pytest.mark.parametrize("thinking", ["kept", "stripped", "empty"])
def test_served_scores_equal_in_process_scores(thinking: Thinking, top_k: int) -> None:
    tokenizer = family("qwen3")
    server, renderer = Server(tokenizer), Renderer(tokenizer, thinking)
    episodes = [make_episode(thoughtful(renderer, count), f"e{count}") for count in (1, 3, 5)]
    local = HFScorer(tiny_model(len(tokenizer)), tokenizer, "teacher", thinking)
    asked = scorer(server, renderer)
    asked.check()
    for wanted, found in zip(
        local.score(episodes, top_k), asked.score(episodes, top_k), strict=True
    ):
        assert [(s.episode_id, s.turn) for s in found] == [(s.episode_id, s.turn) for s in wanted]
        for one, other in zip(wanted, found, strict=True):
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
            assert other.top_ids == one.top_ids
            assert sum(other.top_logprobs, ()) == pytest.approx(sum(one.top_logprobs, ()), abs=1e-4)
    sent = len(server.prompts)
    assert sent == len(episodes) if thinking == "kept" else sent > len(episodes)
    server.http.shutdown()


@pytest.mark.slow
def test_unusable_answers_are_errors(server: Server, tokenizer: Any) -> None:
    renderer = Renderer(tokenizer)
    asked = scorer(server, renderer)
    long = make_episode([Turn("word " * LONGEST, "teacher", "done")], "long")
    fine = make_episode([Turn("see", "teacher", "done")], "fine")
    found = [[score.episode_id for score in every] for every in asked.score([long, fine])]
    assert found == [[], ["fine"]], "one that is too long stays without"
    server.broken = True
    with pytest.raises(SetupError, match="gave no log-probs: HTTP 404"):
        next(asked.score([fine]))


def test_other_tokenizer_and_other_server_are_refused(server: Server, tokenizer: Any) -> None:
    other = tiny_tokenizer()
    other.add_tokens(["return"])
    with pytest.raises(SetupError, match="another tokenizer than the student"):
        scorer(server, Renderer(other)).check()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(SetupError, match="needs a vLLM server"):
        scorer(server, Renderer(tokenizer)).check()
