"""Thoughts of earlier turns: which ids are trained on, and which later turns see."""

import time

import numpy as np
import pytest
import torch

from algorithms.base import Target, TrainingExample
from algorithms.engine.examples import example_tree, prefix_breaks
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.rendering import Renderer
from algorithms.engine.scorer import HFScorer
from swe_gym_env.rollout.history import windowed
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, make_state, tiny_model
from tests.algorithms.families import family
from tests.algorithms.test_hf_policy import check_against_plain_forward
from tests.algorithms.test_tree import path

MODES = ("kept", "stripped", "empty")


def thoughtful(renderer: Renderer, count: int = 5) -> list[Turn]:
    """Turns with and without thoughts, as sampled: letter by letter, which no encoding gives."""
    turns = []
    for n in range(count):
        text = ("<think>\nhm\n</think>\n\n" if n % 3 else "") + f"say {n}"
        ids = [id for c in text.replace("<think>", "") for id in renderer.encode(c)]
        if n % 3:
            ids = [*renderer.encode("<think>"), *ids]
        ids = ids if n == 2 else [*ids, renderer.end_id]  # one is cut short
        turns.append(Turn(f"{n}" * 90, "student", text, None, tuple(ids)))
    return turns


def sequences(renderer, episode, targets):
    """(target, prompt, reply, how many ids of it are learned), each laid out on its own."""
    for target in targets:
        turn = episode.turns[target.turn]
        seen = windowed(episode.turns[: target.turn], episode.metadata.get("history"))
        prompt = renderer.prompt(episode.system_prompt, seen, turn.observation)
        reply = renderer.label(target.text) if target.text else renderer.reply(turn)
        yield target, prompt, list(reply.token_ids), len(reply.token_ids) - reply.unsampled


@pytest.mark.sampled(1)
@pytest.mark.parametrize("history", [None, 2])
@pytest.mark.parametrize("thinking", MODES)
def test_labels_follow_shown_history_and_share_tokens(thinking, history):
    renderer = Renderer(family("qwen3"), thinking)
    turns = thoughtful(renderer)
    episode = make_episode(turns, metadata={"history": history})
    targets = [Target(n, None) for n in range(5)] + [Target(2, "two", 0.5), Target(4, "four", 0.5)]
    tree = example_tree(TrainingExample(episode, tuple(targets)), renderer)
    prefixes, weighted = set(), 0
    for target, prompt, reply, learned in sequences(renderer, episode, targets):
        ids = prompt + reply[:learned]
        ends = [n for n in range(len(tree)) if path(tree, n) == ids]
        assert len(ends) == 1 and tree.ce_weight[ends[0]] == target.weight
        if not target.text:
            assert tuple(reply[:learned]) == turns[target.turn].token_ids
        prefixes |= {tuple((prompt + reply)[: n + 1]) for n in range(len(prompt + reply))}
        weighted += learned
    assert np.count_nonzero(tree.ce_weight) == weighted
    assert len(tree) == len(prefixes)


@pytest.mark.parametrize("history", [None, 1, 2])
@pytest.mark.parametrize("thinking", MODES)
def test_prefix_breaks_are_counted(thinking, history):
    renderer = Renderer(family("qwen3"), thinking)
    turns = thoughtful(renderer)
    episode = make_episode(turns, metadata={"history": history})
    counted, before = 0, []
    for n, turn in enumerate(turns):
        seen = windowed(tuple(turns[:n]), history)
        prompt = renderer.prompt(episode.system_prompt, seen, turn.observation)
        counted += prompt[: len(before)] != before
        before = [*prompt, *renderer.reply(turn).token_ids]
    assert prefix_breaks(episode, renderer) == counted
    if history is None:
        assert counted == {"kept": 0, "stripped": 2, "empty": 4}[thinking]


@pytest.mark.parametrize("thinking", MODES)
def test_policy_reuses_unchanged_history(thinking):
    tokenizer = family("qwen3")
    model, close = tiny_model(len(tokenizer)), tokenizer.get_vocab()["</think>"]
    policy = HFPolicy(
        model, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=12, thinking=thinking
    )
    turns, news = (), []
    for n in range(4):
        asked = [make_state(0, turns, f"output {n}: " + "x" * 80)]
        before = policy.prefilled_tokens
        replies = policy.act(asked)
        news.append(policy.prefilled_tokens - before)
        check_against_plain_forward(policy, model, asked, replies)
        ids = replies[0].token_ids
        thought = (*ids[:4], close, *ids[5:])  # a chance model hardly ever ends a thought
        turns += (Turn(asked[0].observation, "student", tokenizer.decode(thought), None, thought),)
    assert "</think>" in turns[0].text
    prompt = policy.renderer.prompt(asked[0].system_prompt, asked[0].turns, asked[0].observation)
    assert news[-1] < len(prompt) / 2, "the history was computed again"


@pytest.mark.slow
def test_long_episode_becomes_tree_in_seconds():
    renderer = Renderer(family("qwen3"), "kept")
    turns = [Turn(f"{n} " * 200, "student", "look " * 30) for n in range(100)]
    example = TrainingExample(make_episode(turns), tuple(Target(n, None) for n in range(100)))
    began = time.monotonic()
    tree = example_tree(example, renderer)  # deep, and thrown away again: nothing may recurse
    seconds = time.monotonic() - began
    assert tree.depth.max() > 65_000 and len(tree) == tree.depth.max() + 1
    assert int(tree.end[0]) == len(tree)
    assert seconds < 10, f"{len(tree)} tokens took {seconds:.1f} s"


@pytest.mark.parametrize("thinking", MODES)
def test_sampler_and_scorer_see_same_history(thinking):
    tokenizer = family("qwen3")
    model = tiny_model(len(tokenizer))
    options = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12, "thinking": thinking}
    policy = HFPolicy(model, tokenizer, **options)
    turns = tuple(thoughtful(policy.renderer, 3))
    reply = policy.act([make_state(0, turns, "next")])[0]
    newest = Turn("next", "student", reply.text, None, reply.token_ids, reply.logprobs)
    scorer = HFScorer(model, tokenizer, "itself", thinking)
    scores = next(scorer.score([make_episode([*turns, newest])]))
    assert [len(s.logprobs) for s in scores[:2]] == [len(turn.token_ids) for turn in turns[:2]]
    # where the reply was cut short, its end was not sampled
    logprobs = scores[3].logprobs[: len(reply.logprobs)]
    assert torch.allclose(torch.tensor(logprobs), torch.tensor(reply.logprobs), atol=1e-4)
