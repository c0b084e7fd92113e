"""Asking a model server over HTTP: what can pass by itself is tried again, with growing pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.refusal import Refusal, Refused

_LONGEST_PAUSE = 30.0

T = TypeVar("T")


def connect(key: str, timeout: float, connections: int) -> httpx.Client:
    """``key`` may be empty; ``timeout`` in seconds is for one request."""
    return httpx.Client(
        timeout=timeout,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_connections=connections),
    )


class RetryPolicy:
    """``retries`` further tries; ``pause`` is the first pause in seconds, each next is twice it."""

    def __init__(self, retries: int, pause: float) -> None:
        self._retries, self._pause = retries, pause
        self._closed = threading.Event()

    def ask(
        self,
        send: Callable[[], httpx.Response],
        read: Callable[[Any], T | None],
        where: str,
        before_retry: Callable[[], None] = lambda: None,
    ) -> T:
        """What ``read`` makes of the first good answer; its None, or a plain exception, is a bad
        one. ``mend`` is called before each further try. PolicyError when the tries are used up,
        Refused when they would not help."""
        trouble, retry_after = "", 0.0
        for attempt in range(self._retries + 1):
            if attempt:
                pause = max(retry_after, self._pause * 2 ** (attempt - 1))
                if self._closed.wait(min(pause, _LONGEST_PAUSE)):
                    break
                before_retry()
            retry_after = 0.0
            try:
                answer = send()
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if refusal := Refusal.of(answer):
                if not refusal.passing:
                    raise Refused(refusal)
                trouble = f"HTTP {refusal.status}: {answer.text[:200]}"
                retry_after = _retry_after(answer)
                continue
            try:
                said = read(answer.json())
            except (ValueError, KeyError, IndexError, TypeError):
                trouble = f"not a completion: {answer.text[:200]}"
                continue
            if said is not None:
                return said
            trouble = "the answer has no text"
        raise PolicyError(f"{where}: {trouble} (tried {self._retries + 1} times)")

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process waits for itself."""
        return RetryPolicy, (self._retries, self._pause)

    def close(self) -> None:
        """Whoever waits before a further try gives up."""
        self._closed.set()


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to be left alone; 0 where it says nothing, or a date."""
    said = answer.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() else 0.0
