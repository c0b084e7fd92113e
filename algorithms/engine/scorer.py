"""A model that says how likely it finds the student's turns, token by token.

It reads the very ids that the student sampled, so it must have the student's tokenizer; another one
is refused, since its log-probs would be of other tokens. Scoring needs no sandbox: it runs over
stored episodes, each one packed row, so that a history is computed once for all its turns.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.examples import executed_tree
from algorithms.engine.forward import forward, use_trees
from algorithms.engine.rendering import Renderer, Thinking, fingerprint
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode, Scores

Given = Generator[list[Scores], None, None]  # of one episode after another


def check_tokens(folder: str | Path, student_tokenizer: Any) -> None:
    """SetupError where the model in ``folder`` does not read the student's tokens."""
    if fingerprint(load_tokenizer(folder)) != fingerprint(student_tokenizer):
        raise SetupError(
            f"{folder} has another tokenizer than the student: its log-probs would be of other "
            "tokens. Take a teacher of the student's family (teacher=trained makes one), or a "
            "method that needs only the teacher's words: its label is a turn."
        )


class HFScorer:
    """Scores with a Hugging Face model in this process. ``name`` is kept beside every score, and
    ``tokenizer`` is the student's: its template lays out what was seen, ids and all."""

    def __init__(self, model: Any, tokenizer: Any, name: str, thinking: Thinking = "kept") -> None:
        use_trees(model)
        self.model, self.renderer, self.name = model.eval(), Renderer(tokenizer, thinking), name

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype,
        student_tokenizer: Any,
        name: str,
        thinking: Thinking = "kept",
    ) -> HFScorer:
        """SetupError where the folder's tokenizer is not the student's."""
        check_tokens(folder, student_tokenizer)
        return cls(load_model(folder, dtype), student_tokenizer, name, thinking)

    @torch.inference_mode()
    def score(self, episodes: Sequence[Episode], top_k: int = 0, temperature: float = 1.0) -> Given:
        """The scores of all turns of one episode after another, in order: log-probs of
        softmax(logits / temperature)."""
        for episode in episodes:
            tree = executed_tree(episode, self.renderer)
            yield [] if tree is None else self._score(episode, tree, top_k, temperature)

    def _score(self, episode: Episode, tree: Any, top_k: int, temperature: float) -> list[Scores]:
        """A turn whose last token nobody sampled gets 0 for it: no weight ever falls on it."""
        predicted, _ = forward(self.model, [tree], top_k, temperature)
        segment = tree.segment[tree.scored]
        found = []
        for turn, executed in enumerate(episode.turns):
            here = torch.from_numpy((segment == turn).nonzero()[0])
            logprobs, ids, most = (
                part[here.to(part.device)].tolist()
                for part in (predicted.logprobs, predicted.best_ids, predicted.best_logprobs)
            )
            for _ in range(self.renderer.reply(executed).unsampled):
                logprobs.append(0.0)
                ids.append([])
                most.append([])
            found.append(
                Scores(
                    episode.episode_id,
                    turn,
                    self.name,
                    tuple(logprobs),
                    tuple(map(tuple, ids)) if top_k else (),
                    tuple(map(tuple, most)) if top_k else (),
                )
            )
        return found
