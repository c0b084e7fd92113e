"""A policy behind any OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, or a paid service.

Only text is exchanged. Temporary errors (429, 5xx, a time-out, a broken connection) are retried
with growing pauses; an error that remains is the error of one reply, never an exception. Whether
a history is too long is decided in ``refusal.py``, and here where a refusal does not say.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies.base import Reply, State, keyed_rng
from swe_gym_env.policies.completion import Completion, completion, count
from swe_gym_env.policies.refusal import limit, within
from swe_gym_env.policies.retry import RetryPolicy, connect
from swe_gym_env.policies.submit import act_by_submit

log = logging.getLogger(__name__)

_MOST = ("max_tokens", "max_completion_tokens")  # what servers call the limit of a turn
_checking = threading.Lock()  # many episodes begin at the same time, and one check is enough
PROBED = 4  # a refused history is sent again with this part of it


class ServerPolicy:
    """``base_url`` ends in ``/v1``. ``concurrency`` requests are under way at once.

    The key is read from the environment variable ``api_key_env``, so that it stands in no
    configuration file. ``extra`` is added to every request (``{"top_p": 0.9}``, say). ``timeout``
    is in seconds and for one request; ``pause`` is the first pause before trying again.
    """

    needs_sandbox = False

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str = "server",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.0,
        max_tokens: int = 1024,
        timeout: float = 300.0,
        retries: int = 4,
        pause: float = 1.0,
        concurrency: int = 16,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._request = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            **(extra or {}),
        }
        self._retry = RetryPolicy(retries, pause)
        self._concurrency = concurrency
        self._timeout = timeout
        self._key, self._key_env = os.environ.get(api_key_env, ""), api_key_env
        self._checked = False
        self._limit = 0  # tokens, as the server states it; 0: it does not
        self._longest = 0  # characters of the longest history that was taken
        self._rate = 0.0  # tokens for one character, in the newest answer that reports it
        self._connect()

    def _connect(self) -> None:
        self._client = connect(self._key, self._timeout, self._concurrency)
        self._requests = ThreadPoolExecutor(self._concurrency, "request")  # no thread yet

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process."""
        ours = ("_client", "_requests")
        return {name: value for name, value in vars(self).items() if name not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._connect()

    def check(self) -> None:
        """Raises SetupError, saying what to do, where the server cannot be used."""
        try:
            answer = self._client.get(f"{self.base_url}/models", timeout=10.0)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SetupError(
                f"no model server answers at {self.base_url} ({type(error).__name__}: {error}): "
                "start it, or correct its base_url (it ends in /v1)"
            ) from None
        if answer.status_code in (401, 403):
            raise SetupError(f"{self.base_url} wants a key: set {self._key_env}")
        self._checked = True
        try:
            listing = answer.raise_for_status().json()
            served = [str(row["id"]) for row in listing["data"]]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            log.info("%s does not list its models", self.base_url)  # not all servers do
            return
        self._limit = limit(listing, self.model)
        if served and self.model not in served:
            raise SetupError(f"{self.base_url} serves {', '.join(served)}, not {self.model!r}")

    def act(self, states: Sequence[State]) -> list[Reply]:
        """SetupError if the server cannot be used from the start; later only Reply.error."""
        return act_by_submit(self, states)

    def submit(self, state: State) -> Future[Reply]:
        """At most ``concurrency`` requests are under way; others wait for their turn. SetupError
        if the server cannot be used from the start."""
        if not self._checked:
            with _checking:
                if not self._checked:
                    self.check()
        return self._requests.submit(self._reply, state)

    def close(self) -> None:
        self._retry.close()
        self._client.close()
        self._requests.shutdown(wait=False, cancel_futures=True)

    def _reply(self, state: State) -> Reply:
        began = time.monotonic()
        body = {
            **self._request,
            "messages": state.messages,
            "seed": int(keyed_rng(state.key).integers(2**31)),
        }
        most = next((body[name] for name in _MOST if type(body.get(name)) is int), 0)
        try:
            answer = within(
                lambda tokens: self._ask(body, tokens), most, lambda: self._is_full(body, most)
            )
        except PolicyError as error:
            return Reply(error=str(error), seconds=time.monotonic() - began)
        prompt = count(answer.usage, "prompt_tokens")
        self._longest = max(self._longest, _size(body))
        self._rate = prompt / max(1, _size(body)) if prompt else self._rate
        return Reply(
            text=answer.text,
            action=answer.call,
            policy_version=self.model,
            seconds=time.monotonic() - began,
            prompt_tokens=prompt,
            generated_tokens=count(answer.usage, "completion_tokens"),
        )

    def _ask(self, body: Mapping[str, Any], max_tokens: int) -> Completion:
        """Raises PolicyError when the retries are used up, Refused where they would not help."""
        fewer = {name: max_tokens for name in _MOST if type(body.get(name)) is int}
        content = json.dumps({**body, **fewer})  # ASCII: a history may hold what UTF-8 cannot say

        def send() -> httpx.Response:
            url, headers = f"{self.base_url}/chat/completions", {"Content-Type": "application/json"}
            return self._client.post(url, content=content, headers=headers)

        return self._retry.ask(send, completion, self.base_url)

    def _is_full(self, body: Mapping[str, Any], max_tokens: int) -> bool:
        """Whether a refused history is too long, where the refusal does not say. It is, if it has
        more tokens than the server states; or if it is about as long as the longest that was ever
        taken, or longer, and a short part of it is taken."""
        size = _size(body)
        if self._limit and size * (self._rate or 1 / 5) + max_tokens > self._limit:
            return True
        if not self._longest or size < self._longest / 2:
            return False
        share = min(1 / PROBED, self._longest / size / 2)
        short = [{**m, "content": _start(m["content"], share)} for m in body["messages"]]
        try:
            self._ask({**body, "messages": short}, 1)
        except PolicyError:
            return False
        return True


def _size(body: Mapping[str, Any]) -> int:
    return sum(len(message["content"]) for message in body["messages"])


def _start(text: str, share: float) -> str:
    """The first part of a message; never nothing of something, which some servers refuse."""
    return text[: max(1, int(len(text) * share))]
