"""A model that gives the log-prob of each token of the student's turns.

It reads the very token ids that the student sampled, so it must have the student's tokenizer. A
model with another tokenizer is refused, since its log-probs would be of other tokens. Scoring needs
no sandbox: it runs over stored episodes, and the history of an episode is computed only once.
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

ScoreStream = Generator[list[Scores], None, None]  # the scores of one episode after another


def check_tokens(folder: str | Path, student_tokenizer: Any) -> None:
    """SetupError if the tokenizer of the model in ``folder`` is not the student's."""
    if fingerprint(load_tokenizer(folder)) != fingerprint(student_tokenizer):
        raise SetupError(
            f"{folder} has another tokenizer than the student: its log-probs would be of other "
            "tokens. Use a teacher of the student's model family (teacher=trained makes one), or "
            "an algorithm that needs only the text of the teacher's turns as labels."
        )


class HFScorer:
    """Scores with a Hugging Face model in this process.

    Args:
        model: The model.
        tokenizer: The student's tokenizer; its chat template lays out the conversation.
        name: Stored with every score.
        thinking: How the student's earlier thoughts are laid out (:class:`Renderer`).
    """

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
        """Load the model in ``folder``; SetupError if its tokenizer is not the student's."""
        check_tokens(folder, student_tokenizer)
        return cls(load_model(folder, dtype), student_tokenizer, name, thinking)

    @torch.inference_mode()
    def score(
        self, episodes: Sequence[Episode], top_k: int = 0, temperature: float = 1.0
    ) -> ScoreStream:
        """Yield, for one episode after another, the scores of all its turns.

        Args:
            episodes: The episodes, in order.
            top_k: How many of the model's most likely tokens to return at each position.
            temperature: Log-probs are of softmax(logits / temperature).
        """
        for episode in episodes:
            tree = executed_tree(episode, self.renderer)
            yield [] if tree is None else self._score(episode, tree, top_k, temperature)

    def _score(self, episode: Episode, tree: Any, top_k: int, temperature: float) -> list[Scores]:
        predicted, _ = forward(self.model, [tree], top_k, temperature)
        segment = tree.segment[tree.loss_nodes]
        scores = []
        for turn, executed in enumerate(episode.turns):
            of_turn = torch.from_numpy((segment == turn).nonzero()[0])
            logprobs, top_ids, top_logprobs = (
                part[of_turn.to(part.device)].tolist()
                for part in (predicted.logprobs, predicted.best_ids, predicted.best_logprobs)
            )
            # An end-of-turn token that was added after a truncated turn carries no weight, so it is
            # no loss node. Its score is 0, to keep one score per token.
            for _ in range(self.renderer.reply(executed).unsampled):
                logprobs.append(0.0)
                top_ids.append([])
                top_logprobs.append([])
            scores.append(
                Scores(
                    episode.episode_id,
                    turn,
                    self.name,
                    tuple(logprobs),
                    tuple(map(tuple, top_ids)) if top_k else (),
                    tuple(map(tuple, top_logprobs)) if top_k else (),
                )
            )
        return scores
