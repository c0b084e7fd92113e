"""A teacher that is served by vLLM says how likely it finds the student's turns, token by token.

A teacher of thirty billion weights has GPUs of its own and is asked over HTTP. For words any
endpoint will do; for log-probs it must read the very ids that the student sampled, and say of each
token of a prompt how likely it was: vLLM's ``prompt_logprobs``. A history is sent once for all its
turns, except where the template rewrites it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import numpy as np

from algorithms.engine.examples import executed_tree
from algorithms.engine.rendering import Renderer
from algorithms.engine.scorer import ScoreStream
from algorithms.engine.tree import TokenTree
from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies.base import CONTEXT_FULL
from swe_gym_env.policies.refusal import limit, within
from swe_gym_env.policies.retry import RetryPolicy, connect
from swe_gym_env.types import Episode, Scores

log = logging.getLogger(__name__)

UNTEMPERED = (
    "A server gives the log-probs of a prompt at temperature 1, and this method wants them at {}: "
    "algorithm.temperature=1, or a teacher in this process (teacher=hf, teacher=trained)."
)
PROBED = 1000  # ids by which two tokenizers are told apart

Likely = Mapping[str, Mapping[str, Any]]  # of one place: token id to {"logprob", "rank"}


class ServedScorer:
    """Asks ``model`` at ``base_url`` (ends in ``/v1``), ``concurrency`` episodes at once.

    ``renderer`` is of the student; ``timeout`` in seconds is for one request. Those of a prompt are
    always of the model itself, at temperature 1; the server must allow as many as the method wants
    at each place (``--max-logprobs``).
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        renderer: Renderer,
        *,
        name: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 600.0,
        concurrency: int = 16,
        retries: int = 4,
        pause: float = 1.0,
    ) -> None:
        self.base_url, self.model = base_url.rstrip("/"), model
        self.renderer, self.name = renderer, name
        self._concurrency = concurrency
        self._client = connect(os.environ.get(api_key_env, ""), timeout, concurrency)
        self._retry = RetryPolicy(retries, pause)

    def check(self, temperature: float = 1.0) -> None:
        """SetupError where the server does not answer as vLLM does, or reads other tokens, or
        cannot score at ``temperature``."""
        if temperature != 1:
            raise SetupError(UNTEMPERED.format(temperature))
        vocabulary = len(self.renderer.tokenizer)
        ids = list(range(0, vocabulary, max(1, vocabulary // PROBED)))
        body = {"model": self.model, "tokens": ids}
        try:
            said = self._ask(self.base_url.removesuffix("/v1") + "/detokenize", body, _prompt)
        except PolicyError as error:
            raise SetupError(
                f"teacher.scores=true wants a vLLM server at {self.base_url}, which says how "
                f"likely each token of a prompt is: {error}"
            ) from None
        if said != self.renderer.tokenizer.decode(ids):
            raise SetupError(
                f"{self.model} at {self.base_url} has another tokenizer than the student: its "
                "log-probs would be of other tokens. Take a teacher of the student's family, or a "
                "method that needs only the teacher's words: its label is a turn."
            )

    def score(
        self, episodes: Sequence[Episode], top_k: int = 0, temperature: float = 1.0
    ) -> ScoreStream:
        """The scores of all turns of one episode after another, in order. One that is too long for
        the server has none. SetupError where the server cannot be asked any more, and for another
        ``temperature`` than 1, since it gives the log-probs of a prompt at no other."""
        if temperature != 1:
            raise SetupError(UNTEMPERED.format(temperature))
        pool = ThreadPoolExecutor(self._concurrency, "score")
        try:
            asked = [pool.submit(self._score, episode, top_k) for episode in episodes]
            for answer in asked:
                yield answer.result()
        finally:  # also where nobody wants the rest
            pool.shutdown(wait=False, cancel_futures=True)

    def _score(self, episode: Episode, top_k: int) -> list[Scores]:
        tree = executed_tree(episode, self.renderer)
        if tree is None:
            return []
        places: dict[int, Likely] = {}  # by node
        try:
            for path in paths(tree):
                ids = tree.token_ids[path].tolist()
                body = {"model": self.model, "prompt": ids, "temperature": 0.0}
                body["prompt_logprobs"] = top_k
                found = within(partial(self._likely, body), 1, partial(self._is_full, len(ids)))
                if len(found) != len(ids):
                    raise PolicyError(f"{len(found)} log-probs for a prompt of {len(ids)} tokens")
                places |= dict(zip(path.tolist(), found, strict=True))
        except PolicyError as error:
            if str(error).startswith(CONTEXT_FULL):
                log.warning("%s is too long for the teacher's server", episode.episode_id)
                return []
            raise SetupError(
                f"{self.model} at {self.base_url} gave no log-probs: {error}\n"
                "What was scored is kept; mend that and give the same command again."
            ) from None
        return [
            self._turn(episode, turn, tree, places, top_k) for turn in range(len(episode.turns))
        ]

    def _turn(
        self,
        episode: Episode,
        turn: int,
        tree: TokenTree,
        places: Mapping[int, Likely],
        top_k: int,
    ) -> Scores:
        """A turn whose last token nobody sampled gets 0 for it: no weight ever falls on it."""
        logprobs, best = [], []
        for node in tree.loss_nodes[tree.segment[tree.loss_nodes] == turn].tolist():
            here = places[node]
            logprobs.append(float(here[str(tree.token_ids[node])]["logprob"]))
            order = sorted(here, key=lambda id: -here[id]["logprob"])[:top_k]
            best.append([(int(id), float(here[id]["logprob"])) for id in order])
        for _ in range(self.renderer.reply(episode.turns[turn]).unsampled):
            logprobs.append(0.0)
            best.append([])
        ids = tuple(tuple(id for id, _ in one) for one in best)
        most = tuple(tuple(logprob for _, logprob in one) for one in best)
        told = (ids, most) if top_k else ((), ())
        return Scores(episode.episode_id, turn, self.name, tuple(logprobs), *told)

    def _likely(self, body: Mapping[str, Any], max_tokens: int) -> list[Likely]:
        url, whole = f"{self.base_url}/completions", {**body, "max_tokens": max_tokens}
        found: list[Likely] = self._ask(url, whole, _likely)
        return found

    def _is_full(self, length: int) -> bool:
        """Whether a prompt of ``length`` tokens is longer than the server says it takes."""
        try:
            listing = self._client.get(f"{self.base_url}/models", timeout=10.0).json()
        except (httpx.HTTPError, ValueError):
            return False
        return 0 < limit(listing, self.model) <= length

    def _ask(self, url: str, body: Mapping[str, Any], read: Any) -> Any:
        return self._retry.ask(lambda: self._client.post(url, json=body), read, url)


def paths(tree: TokenTree) -> list[np.ndarray]:
    """From the root to where a branch with scored tokens ends: as few as hold all of these. Each is
    of nodes in order."""
    found: list[np.ndarray] = []
    held: set[int] = set()
    for last in sorted(tree.loss_nodes.tolist(), reverse=True):
        if last in held:
            continue
        path, node = [], last
        while node >= 0:
            path.append(node)
            node = int(tree.parent[node])
        held.update(path)
        found.append(np.array(path[::-1]))
    return found


def _prompt(said: Any) -> str | None:
    return said["prompt"]


def _likely(said: Any) -> list[Likely]:
    """The first token of a prompt follows nothing and has none."""
    return [place or {} for place in said["choices"][0]["prompt_logprobs"]]
