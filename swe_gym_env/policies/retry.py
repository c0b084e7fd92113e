"""Asking a model server over HTTP: temporary errors are retried, with growing pauses."""

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
        """Ask until there is a good answer.

        Args:
            send: Sends the request.
            read: Reads the JSON of an answer. None or a plain exception is a bad answer.
            where: Names the server in an error.
            before_retry: Called before each further try.

        Raises:
            PolicyError: The tries are used up.
            Refused: The server refused, and a further try would not help.
        """
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
                result = read(answer.json())
            except (ValueError, KeyError, IndexError, TypeError):
                trouble = f"not a completion: {answer.text[:200]}"
                continue
            if result is not None:
                return result
            trouble = "the answer has no text"
        raise PolicyError(f"{where}: {trouble} (tried {self._retries + 1} times)")

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process has its own state."""
        return RetryPolicy, (self._retries, self._pause)

    def close(self) -> None:
        """Threads that wait before a further try give up."""
        self._closed.set()


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait; 0 if it says nothing, or a date."""
    header = answer.headers.get("Retry-After", "")
    return float(header) if header.isascii() and header.isdigit() else 0.0
