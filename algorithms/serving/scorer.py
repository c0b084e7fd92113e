"""A teacher that is served by vLLM gives the log-prob of each token of the student's turns.

A large teacher runs on separate GPUs and is asked over HTTP. Any endpoint can write turns as
labels. For log-probs the server must read the very token ids that the student sampled, and return
the log-prob of each token of a prompt, which vLLM does (``prompt_logprobs``). The history of an
episode is sent only once, unless the chat template rewrites it.
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

WRONG_TEMPERATURE = (
    "A server gives the log-probs of a prompt at temperature 1 only, and this algorithm needs them "
    "at {}: set algorithm.temperature=1, or use a teacher in this process (teacher=hf, "
    "teacher=trained)."
)
PROBES = 1000  # number of ids by which two tokenizers are compared

# What vLLM returns for one position: from token id to {"logprob", "rank"}
TokenLogprobs = Mapping[str, Mapping[str, Any]]


class ServedScorer:
    """Scores with a model on a vLLM server.

    Log-probs of a prompt are always at temperature 1. The server must allow as many per position as
    the algorithm needs (``--max-logprobs``).

    Args:
        base_url: Address of the server, ending in ``/v1``.
        model: Name of the model there.
        renderer: Renderer of the student.
        name: Stored with every score.
        api_key_env: Environment variable with the key; it may be unset.
        timeout: Seconds that one request may take.
        concurrency: Episodes scored at once.
        retries: How often a failed request is sent again.
        pause: Seconds before the first retry; each further pause is twice as long.
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
        """Check the server before a run depends on it.

        Raises:
            SetupError: It does not answer as vLLM does, has another tokenizer than the student, or
                cannot score at ``temperature``.
        """
        if temperature != 1:
            raise SetupError(WRONG_TEMPERATURE.format(temperature))
        vocabulary = len(self.renderer.tokenizer)
        ids = list(range(0, vocabulary, max(1, vocabulary // PROBES)))
        body = {"model": self.model, "tokens": ids}
        try:
            text = self._ask(self.base_url.removesuffix("/v1") + "/detokenize", body, _detokenized)
        except PolicyError as error:
            raise SetupError(
                f"teacher.scores=true needs a vLLM server at {self.base_url}, which returns the "
                f"log-prob of each token of a prompt: {error}"
            ) from None
        if text != self.renderer.tokenizer.decode(ids):
            raise SetupError(
                f"{self.model} at {self.base_url} has another tokenizer than the student: its "
                "log-probs would be of other tokens. Use a teacher of the student's model family, "
                "or an algorithm that needs only the text of the teacher's turns as labels."
            )

    def score(
        self, episodes: Sequence[Episode], top_k: int = 0, temperature: float = 1.0
    ) -> ScoreStream:
        """Yield, for one episode after another, the scores of all its turns.

        An episode that is too long for the server has no scores.

        Args:
            episodes: The episodes, in order.
            top_k: How many of the model's most likely tokens to return at each position.
            temperature: Must be 1.

        Raises:
            SetupError: The server does not answer any more, or ``temperature`` is not 1.
        """
        if temperature != 1:
            raise SetupError(WRONG_TEMPERATURE.format(temperature))
        pool = ThreadPoolExecutor(self._concurrency, "score")
        try:
            futures = [pool.submit(self._score, episode, top_k) for episode in episodes]
            for future in futures:
                yield future.result()
        finally:  # also if the caller stops early
            pool.shutdown(wait=False, cancel_futures=True)

    def _score(self, episode: Episode, top_k: int) -> list[Scores]:
        tree = executed_tree(episode, self.renderer)
        if tree is None:
            return []
        by_node: dict[int, TokenLogprobs] = {}
        try:
            for path in paths(tree):
                ids = tree.token_ids[path].tolist()
                body = {"model": self.model, "prompt": ids, "temperature": 0.0}
                body["prompt_logprobs"] = top_k
                send = partial(self._prompt_logprobs, body)
                logprobs = within(send, 1, partial(self._is_full, len(ids)))
                if len(logprobs) != len(ids):
                    got = len(logprobs)
                    raise PolicyError(f"{got} log-probs for a prompt of {len(ids)} tokens")
                by_node |= dict(zip(path.tolist(), logprobs, strict=True))
        except PolicyError as error:
            if str(error).startswith(CONTEXT_FULL):
                log.warning("%s is too long for the teacher's server", episode.episode_id)
                return []
            raise SetupError(
                f"{self.model} at {self.base_url} gave no log-probs: {error}\n"
                "Scores so far are kept. Fix this and give the same command again to continue."
            ) from None
        return [
            self._turn(episode, turn, tree, by_node, top_k) for turn in range(len(episode.turns))
        ]

    def _turn(
        self,
        episode: Episode,
        turn: int,
        tree: TokenTree,
        by_node: Mapping[int, TokenLogprobs],
        top_k: int,
    ) -> Scores:
        logprobs, best = [], []
        for node in tree.loss_nodes[tree.segment[tree.loss_nodes] == turn].tolist():
            tokens = by_node[node]
            logprobs.append(float(tokens[str(tree.token_ids[node])]["logprob"]))
            # vLLM adds the prompt's own token if it is not among the top k.
            order = sorted(tokens, key=lambda id: -tokens[id]["logprob"])[:top_k]
            best.append([(int(id), float(tokens[id]["logprob"])) for id in order])
        # An end-of-turn token that was appended carries no weight. Its score is 0, to keep one
        # score per token.
        for _ in range(self.renderer.reply(episode.turns[turn]).unsampled):
            logprobs.append(0.0)
            best.append([])
        top_ids = tuple(tuple(id for id, _ in pairs) for pairs in best)
        top_logprobs = tuple(tuple(logprob for _, logprob in pairs) for pairs in best)
        top = (top_ids, top_logprobs) if top_k else ((), ())
        return Scores(episode.episode_id, turn, self.name, tuple(logprobs), *top)

    def _prompt_logprobs(self, body: Mapping[str, Any], max_tokens: int) -> list[TokenLogprobs]:
        url, request = f"{self.base_url}/completions", {**body, "max_tokens": max_tokens}
        logprobs: list[TokenLogprobs] = self._ask(url, request, _logprobs_of_prompt)
        return logprobs

    def _is_full(self, length: int) -> bool:
        """Whether a prompt of ``length`` tokens exceeds the context that the server reports."""
        try:
            listing = self._client.get(f"{self.base_url}/models", timeout=10.0).json()
        except (httpx.HTTPError, ValueError):
            return False
        return 0 < limit(listing, self.model) <= length

    def _ask(self, url: str, body: Mapping[str, Any], read: Any) -> Any:
        return self._retry.ask(lambda: self._client.post(url, json=body), read, url)


def paths(tree: TokenTree) -> list[np.ndarray]:
    """The fewest paths from a root that contain all loss nodes; each lists its nodes in order.

    Going backwards from the last loss node, a node that is not on a path yet ends a new one.
    """
    result: list[np.ndarray] = []
    covered: set[int] = set()
    for last in sorted(tree.loss_nodes.tolist(), reverse=True):
        if last in covered:
            continue
        path, node = [], last
        while node >= 0:
            path.append(node)
            node = int(tree.parent[node])
        covered.update(path)
        result.append(np.array(path[::-1]))
    return result


def _detokenized(answer: Any) -> str | None:
    return answer["prompt"]


def _logprobs_of_prompt(answer: Any) -> list[TokenLogprobs]:
    """One entry per token; the first token of a prompt has no log-prob."""
    return [position or {} for position in answer["choices"][0]["prompt_logprobs"]]
