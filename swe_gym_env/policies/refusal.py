"""Why a model server refused a request, and whether the history is too long for it.

A history that no longer fits is the agent's limit, and the episode is scored; any other refusal
(a wrong key, name or parameter, a content filter) says nothing about the agent. No two servers word
it alike, so the decision rests on structure first: the HTTP status, the fields ``code`` and
``type``, sizes given as numbers, and a number of tokens that the server computed itself. Words
count only where they name a length that something exceeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.base import CONTEXT_FULL

T = TypeVar("T")

_PASSING = {408, 409, 425, 429}  # and every 5xx
_NAMED = {"code", "type", "error_type", "error_code", "status", "kind", "reason", "error"}
_TOO_LONG = re.compile(
    r"context.?(length|size|window|limit|overflow|exceed)|exceed.?context|(prompt|input|request)"
    r".?(is.?)?too.?(long|large)|too.?many.?(input.?)?tokens|string.?above.?max.?length|max.?context"
)
_OTHER = re.compile(
    r"rate.?limit|quota|billing|insufficient|content.?(filter|policy)|responsible.?ai|safety"
    r"|moderation|auth|api.?key|permission|not.?found|unsupported|unknown.?(model|param)"
)
_SENT = {"max_tokens", "max_completion_tokens", "max_new_tokens"}
_PARAMETERS = {"messages", "prompt", "input", "inputs", "input_tokens", "input_ids"} | _SENT
_WHAT = re.compile(r"context|prompt|input|messages|n_ctx|max_model_len|model len|sequence|request")
_LENGTH = re.compile(r"token|length|size|window|n_ctx|max_model_len|too (long|large)")
_OVER = re.compile(
    r"exceed|too (long|large|big|many)|longer|larger|greater|more than|maximum|limit|overflow"
    r"|at most|up to|<=|>=|less than|not enough|no smaller|reduce|shorten|shorter|should be \["
)
_SHAPE = re.compile(r"alternat|image|attachment|tool|stop sequence|logprob|roles?\b|system message")
# A number of tokens below 1 that a server says it was asked for, when it was asked for more
_COMPUTED = re.compile(r"max\w*tokens?\b.*?(?<![\w.])(-\d+|(?:got|value)[ =:]+0)\b", re.DOTALL)
_LIMITS = (
    *("max_model_len", "loaded_context_length", "context_length", "context_window"),
    *("max_context_length", "max_context_tokens", "n_ctx"),
)


@dataclass(frozen=True)
class Refusal:
    """``status``: of HTTP, or that of an error that a proxy wraps into a 200. ``named``: the
    fields that name the fault (code, type); ``parameter``: the wrong one, if the server names it;
    ``sizes``: numbers by name; ``message``: its sentences; ``text``: the whole answer."""

    status: int
    text: str
    message: str
    named: str
    parameter: str
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, answer: httpx.Response) -> Refusal | None:
        """None where ``answer`` is no refusal, whatever else it may be."""
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        error = _error(body)
        if answer.status_code == 200 and error is None:
            return None
        status = answer.status_code
        fields = list(_fields(body if error is None or status != 200 else error))
        texts = [(k, v) for k, v in fields if isinstance(v, str)]
        sentences = [v for _, v in texts if re.search(r"\s", v)]
        named = " ".join(v.lower() for k, v in texts if k in _NAMED and v not in sentences)
        parameter = next((v for k, v in texts if k == "param"), "")
        sizes = {k: v for k, v in fields if type(v) is int}
        if status == 200:
            codes = [sizes.get("code", 0), *(int(n) for n in named.split() if n.isdecimal())]
            status = next((code for code in codes if 400 <= code < 600), 400)
        text = answer.text[:4000]
        return cls(status, text, " ".join(sentences)[:4000] or text, named, parameter, sizes)

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered later. A server that finds a history too long
        with a 500 will find it so again."""
        later = self.status in _PASSING or self.status >= 500
        return later and not self.too_long(0)

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.text[:300]}"

    def too_long(self, max_tokens: int) -> bool | None:
        """Whether the history is too long; None if the server does not say. ``max_tokens``: how
        many new ones were asked for."""
        if self.status in (401, 402, 403, 404, 405, 429) or _OTHER.search(self.named):
            return False
        prompt, most = self.sizes.get("n_prompt_tokens", 0), self.sizes.get("n_ctx", 0)
        if _TOO_LONG.search(self.named) or prompt >= most > 0 or self.status == 413:
            return True
        if self.status not in (400, 422, 500):
            return None
        name = re.match(r"\w*", self.parameter)
        if name and name[0] and name[0] not in _PARAMETERS:
            return False
        words = self.message.lower()
        if max_tokens > 0 and _COMPUTED.search(words):
            return True
        matches = all(kind.search(words) for kind in (_WHAT, _LENGTH, _OVER))
        return True if matches and not _SHAPE.search(words) else None

    def room(self, max_tokens: int) -> int:
        """How many new tokens there is room for, if the numbers in the message show it: a prompt
        that is shorter than a limit, and with ``max_tokens`` longer. Else 0."""
        numbers = {int(number) for number in re.findall(r"\d{1,9}", self.message)}
        pairs = [
            (prompt + max_tokens in numbers, most - prompt)
            for prompt in numbers
            for most in numbers
            if max_tokens in numbers
            and prompt < most < prompt + max_tokens
            and prompt != max_tokens
        ]
        summed = [room for total, room in pairs if total]
        return min(summed or [room for _, room in pairs], default=0)


class Refused(PolicyError):  # noqa: N818
    """A server will not answer, and asking again would not help."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.refusal,)


def within(
    ask: Callable[[int], T], max_tokens: int, is_full: Callable[[], bool] = lambda: False
) -> T:
    """What ``ask`` makes of ``max_tokens``; or of fewer, where the history leaves room for fewer.

    ``is_full`` is asked where a refusal does not say whether the length is to blame. Raises
    PolicyError, whose message begins with ``CONTEXT_FULL`` where the history is too long."""
    try:
        return ask(max_tokens)
    except Refused as error:
        refusal = error.refusal
        too_long = refusal.too_long(max_tokens)
        if not (is_full() if too_long is None else too_long):
            raise
    if room := refusal.room(max_tokens):
        try:
            return ask(room)
        except Refused as error:
            if error.refusal.too_long(room) is False:
                raise
    raise PolicyError(f"{CONTEXT_FULL}: {refusal}")


def limit(listing: Any, model: str) -> int:
    """The tokens that ``model`` takes, as a server's list of models has it; 0: it does not say."""
    rows = listing.get("data") if isinstance(listing, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("id") == model:
            sizes = {k: v for k, v in _fields(row) if type(v) is int and v > 0}
            return int(next((sizes[name] for name in _LIMITS if name in sizes), 0))
    return 0


def _error(body: Any) -> Any:
    """What a body calls an error; None where it has an answer."""
    if isinstance(body, list) and body:  # as Google wraps it
        body = body[0]
    if not isinstance(body, dict):
        return None
    if body.get("error"):
        return body
    if body.get("object") == "error" or body.get("type") == "error":
        return body
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first["error"] if isinstance(first, dict) and first.get("error") else None


def _fields(value: Any, depth: int = 6) -> Iterator[tuple[str, Any]]:
    """The plain values of a body, those deep inside too; of equal names the outer one comes last.
    JSON that a proxy passes on within a string is read as well."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if depth and isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        for one in inner:
            yield from _fields(one, depth - 1)
    if isinstance(value, dict):
        yield from ((str(k), v) for k, v in value.items() if isinstance(v, (str, int)))
