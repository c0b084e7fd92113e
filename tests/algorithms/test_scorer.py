"""Scores equal those of a plain forward pass, and those that the policy recorded."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from algorithms.engine.checkpoint import save_checkpoint
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.rendering import Renderer
from algorithms.engine.scorer import HFScorer
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, make_state, tiny_model, tiny_tokenizer
from tests.algorithms.sampled import episode, plain_logprobs


def test_scores_equal_plain_forward(tokenizer):
    renderer, rng = Renderer(tokenizer), random.Random(0)
    episodes = [episode(rng, renderer.end_id, f"e{n}", n) for n in range(1, 5)]
    plain = plain_logprobs(tiny_model(len(tokenizer)), renderer, episodes)
    scorer = HFScorer(tiny_model(len(tokenizer)), tokenizer, "teacher")
    for item, wanted, scores in zip(episodes, plain, scorer.score(episodes, 4), strict=True):
        assert [(s.episode_id, s.turn, s.scorer) for s in scores] == [
            (item.episode_id, n, "teacher") for n in range(len(item.turns))
        ]
        got = []
        for turn, found in zip(item.turns, scores, strict=True):
            count, reply = len(turn.token_ids), renderer.reply(turn)
            assert len(found.logprobs) == len(found.top_ids) == len(reply.token_ids)
            assert found.logprobs[count:] == (0.0,) * reply.unsampled
            got += found.logprobs[:count]
            for token, logprob, ids, most in zip(
                turn.token_ids, found.logprobs, found.top_ids, found.top_logprobs, strict=False
            ):
                assert list(most) == sorted(most, reverse=True) and len(set(ids)) == 4
                assert max(most) >= logprob - 1e-6
                if token in ids:
                    assert most[ids.index(token)] == pytest.approx(logprob, abs=1e-6)
        assert torch.allclose(torch.tensor(got), wanted, atol=1e-5)
    assert any(renderer.reply(turn).unsampled for item in episodes for turn in item.turns)


def test_teacher_turns_are_scored_as_encoded(tokenizer):
    turns = [Turn("see", "teacher", "do it"), Turn("then", "teacher", "done")]
    item, renderer = make_episode(turns), Renderer(tokenizer)
    encoded = [replace(turn, token_ids=renderer.label(turn.text).token_ids) for turn in turns]
    scorer = HFScorer(tiny_model(len(tokenizer)), tokenizer, "teacher")
    one, two = scorer.score([item, make_episode(encoded)])
    assert one == two and [len(s.logprobs) for s in one] == [6, 5]


def test_scores_equal_recorded_logprobs(tokenizer):
    policy = HFPolicy(
        tiny_model(len(tokenizer)), tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=9
    )
    turns: list[tuple[Turn, ...]] = [()] * 3
    for turn in range(3):
        seen = f"output {turn}"
        states = [make_state(n, turns[n], seen) for n in range(3)]
        for n, reply in enumerate(policy.act(states)):
            made = Turn(seen, "student", reply.text, None, reply.token_ids, reply.logprobs)
            turns[n] = (*turns[n], made)
    episodes = [make_episode(list(rows), f"e{n}") for n, rows in enumerate(turns)]
    scorer = HFScorer(tiny_model(len(tokenizer)), tokenizer, "start")
    for item, scores in zip(episodes, scorer.score(episodes), strict=True):
        for made, found in zip(item.turns, scores, strict=True):
            assert found.logprobs[: len(made.logprobs)] == pytest.approx(made.logprobs, abs=1e-4)
            assert found.top_ids == ()


def test_teacher_with_other_tokenizer_is_refused(tokenizer, tmp_path):
    other = tiny_tokenizer()
    other.add_tokens(["return"])
    model = tiny_model(len(other))
    save_checkpoint(model, other, tmp_path / "other")
    with pytest.raises(SetupError, match="another tokenizer than the student"):
        HFScorer.from_folder(tmp_path / "other", torch.float32, tokenizer, "teacher")
    same = HFScorer.from_folder(tmp_path / "other", torch.float32, other, "teacher")
    assert list(same.score([make_episode([])])) == [[]]
