"""A policy behind any OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, or a paid service.

Only text travels. What can pass by itself (429, 5xx, a time-out, a torn connection) is tried again
with growing pauses; what remains is the error of one reply, never an exception in mid-run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from swe_gym_env.agents.base import Reply, State, keyed_rng
from swe_gym_env.agents.patience import Patience, connect
from swe_gym_env.errors import PolicyError, SetupError

log = logging.getLogger(__name__)


class ServerPolicy:
    """``base_url`` ends in ``/v1``. ``concurrency`` requests are under way at once.

    The key is read from the environment variable ``api_key_env``, so that it stands in no
    configuration file. ``extra`` is added to every request (``{"top_p": 0.9}``, say). ``timeout``
    is in seconds and for one request; ``pause`` is the first pause before trying again.
    """

    needs_box = False

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
        self._patience = Patience(retries, pause)
        self._concurrency = concurrency
        self._timeout = timeout
        self._key, self._key_env = os.environ.get(api_key_env, ""), api_key_env
        self._checked = False
        self._connect()

    def _connect(self) -> None:
        self._client = connect(self._key, self._timeout, self._concurrency)

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process."""
        return {name: value for name, value in vars(self).items() if name != "_client"}

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
            served = [str(row["id"]) for row in answer.raise_for_status().json()["data"]]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            log.info("%s does not list its models", self.base_url)  # not all servers do
            return
        if served and self.model not in served:
            raise SetupError(f"{self.base_url} serves {', '.join(served)}, not {self.model!r}")

    def act(self, states: Sequence[State]) -> list[Reply]:
        """SetupError if the server cannot be used from the start; later only Reply.error."""
        if not self._checked:
            self.check()
        if not states:
            return []
        pool = ThreadPoolExecutor(min(self._concurrency, len(states)), "request")
        try:
            return list(pool.map(self._reply, states))
        finally:  # after Ctrl-C nobody waits for an answer
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._patience.close()
        self._client.close()

    def _reply(self, state: State) -> Reply:
        began = time.monotonic()
        body = {
            **self._request,
            "messages": state.messages,
            "seed": int(keyed_rng(state.key).integers(2**31)),
        }
        try:
            text, usage = self._ask(body)
        except PolicyError as error:
            return Reply(error=str(error), seconds=time.monotonic() - began)
        return Reply(
            text=text,
            policy_version=self.model,
            seconds=time.monotonic() - began,
            prompt_tokens=_count(usage, "prompt_tokens"),
            generated_tokens=_count(usage, "completion_tokens"),
        )

    def _ask(self, body: Mapping[str, Any]) -> tuple[str, Any]:
        """The model's text, and what the server says of its size. Raises PolicyError when the
        retries are used up or would not help."""
        content = json.dumps(body)  # ASCII: a history may hold what UTF-8 cannot say

        def send() -> httpx.Response:
            url, headers = f"{self.base_url}/chat/completions", {"Content-Type": "application/json"}
            return self._client.post(url, content=content, headers=headers)

        return self._patience.ask(send, _text, self.base_url)


def _text(said: Any) -> tuple[str, Any] | None:
    text = said["choices"][0]["message"]["content"]
    return (text, said.get("usage")) if isinstance(text, str) else None


def _count(usage: Any, name: str) -> int | None:
    """Not every server counts, and a proxy may put anything there."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if type(found) is int and found >= 0 else None
