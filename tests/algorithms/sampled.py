"""Episodes as a student samples them, their training examples, and the same sequences with nothing
shared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from algorithms.base import Target, TrainingExample
from algorithms.engine.rendering import Renderer
from algorithms.engine.scorer import HFScorer
from swe_gym_env.types import Episode, Turn
from tests.algorithms.conftest import make_episode, words


def episode(rng: random.Random, end_id: int, name: str, turns: int, **fields) -> Episode:
    """Odd turns were cut: their end nobody sampled. The log-probs are anybody's guess."""
    made = []
    for n in range(turns):
        ids = [rng.randrange(90) for _ in range(rng.randint(1, 6))] + [end_id] * (n % 2 == 0)
        guess = tuple(-5 * rng.random() for _ in ids)
        made.append(Turn(words(rng), "student", "?", None, tuple(ids), guess))
    return make_episode(made, name, **fields)


def chain(renderer: Renderer, item: Episode) -> tuple[list[int], list[int], int]:
    """One plain sequence: ids, which of them were sampled, and how many the prompt has."""
    ids, sampled, first = [], [], 0
    for n, turn in enumerate(item.turns):
        seen = turn.observation
        prompt = renderer.between(seen) if n else renderer.opening(item.system_prompt, seen)
        reply = renderer.reply(turn)
        ids += [*prompt, *reply.token_ids]
        sampled += [0] * len(prompt) + [1] * len(turn.token_ids) + [0] * reply.unsampled
        first = first or len(prompt)
    return ids, sampled, first


def plain_logprobs(model, renderer: Renderer, episodes: Sequence[Episode]) -> list[torch.Tensor]:
    """Of the sampled tokens of each episode: a padded batch through the model's own forward."""
    chains = [chain(renderer, item) for item in episodes]
    width = max(len(ids) for ids, _, _ in chains)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _, _ in chains])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _, _ in chains])
    logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    found = logprobs.gather(2, ids[:, 1:, None])[..., 0]
    return [
        row[torch.tensor(sampled[1:]).nonzero()[:, 0]]
        for row, (_, sampled, _) in zip(found, chains, strict=False)
    ]


def behaved(episodes: Sequence[Episode], logprobs: Sequence[torch.Tensor]) -> list[Episode]:
    """The episodes with these log-probs as recorded when they were sampled."""
    made = []
    for item, row in zip(episodes, logprobs, strict=True):
        parts = row.detach().split([len(turn.token_ids) for turn in item.turns])
        turns = [
            replace(turn, logprobs=tuple(part.tolist()))
            for turn, part in zip(item.turns, parts, strict=True)
        ]
        made.append(replace(item, turns=tuple(turns)))
    return made


def scored(model, tokenizer, episodes: Sequence[Episode], top_k: int = 0):
    return list(HFScorer(model, tokenizer, "other").score(episodes, top_k))


def taught(item: Episode, scores=None, group: str = "", **weights) -> TrainingExample:
    """Every turn of the episode, as it was sampled, with the same weights."""
    turns = range(len(item.turns))
    values = {"weight": 0.0, **weights}
    return TrainingExample(
        item,
        tuple(Target(n, None, **values, scores=scores[n] if scores else None) for n in turns),
        group,
    )


def grads(model) -> dict[str, torch.Tensor]:
    """Takes them away."""
    found = {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in model.named_parameters()
    }
    model.zero_grad()
    return found


def assert_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], share=1e-4) -> None:
    """No entry differs by more than ``share`` of the largest entry of all."""
    largest = max(float(part.abs().max()) for part in wanted.values())
    for name, part in wanted.items():
        assert float((got[name] - part).abs().max()) <= share * largest + 1e-7, name
