import math
from dataclasses import replace

import pytest
import torch

from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.sampling import sample
from algorithms.engine.tree import common_prefix_length
from swe_gym_env.policies.base import CONTEXT_FULL
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_state


def states(count=7, turns=None):
    return [
        make_state(n, (turns or {}).get(n, ()), "Please do " + "x" * (3 * n * n) + " now")
        for n in range(count)
    ]


def replies_of(model, tokenizer, asked, **options):
    policy = HFPolicy(model, tokenizer, **{"max_new_tokens": 12, "top_p": 1.0, **options})
    return policy, policy.act(asked)


def check_against_plain_forward(policy, model, asked, replies):
    for state, reply in zip(asked, replies, strict=True):
        prompt = policy.renderer.prompt(state.system_prompt, state.turns, state.observation)
        ids = torch.tensor([[*prompt, *reply.token_ids]])
        with torch.no_grad():
            logp = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = logp.gather(1, torch.tensor(reply.token_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(reply.logprobs), wanted, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_logprobs_equal_plain_forward(tiny, tokenizer, temperature):
    policy = HFPolicy(tiny, tokenizer, temperature=temperature, top_p=1.0, max_new_tokens=12)
    asked = states()
    for turn in range(3):
        replies = policy.act(asked)
        check_against_plain_forward(policy, tiny, asked, replies)
        prefilled = policy.prefilled_tokens
        # even rows continue with their own reply, odd ones with a turn of the teacher
        asked = [
            make_state(
                n,
                (
                    *state.turns,
                    Turn(state.observation, "student", reply.text, None, reply.token_ids)
                    if (n + turn) % 2 == 0
                    else Turn(state.observation, "teacher", "cat a.py"),
                ),
                f"then {turn}",
            )
            for n, (state, reply) in enumerate(zip(asked, replies, strict=True))
        ]
    whole = sum(len(policy.renderer.prompt(s.system_prompt, s.turns, "")) for s in asked)
    policy.act(asked)
    assert policy.prefilled_tokens - prefilled < whole / 2, "the history was computed again"


def test_moving_history_window_is_recomputed(tiny, tokenizer):
    from swe_gym_env.rollout.history import windowed

    policy = HFPolicy(tiny, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=12)
    turns = ()
    for turn in range(4):
        seen = f"output {turn}: " + "x" * 80
        asked = [make_state(0, windowed(turns, 2), seen)]
        replies = policy.act(asked)
        check_against_plain_forward(policy, tiny, asked, replies)
        turns += (Turn(seen, "student", replies[0].text, None, replies[0].token_ids),)


def test_shared_beginning_is_computed_once(tiny, tokenizer):
    policy = HFPolicy(tiny, tokenizer, temperature=0.0, max_new_tokens=12)
    asked = states(5)
    prompts = [policy.renderer.prompt(s.system_prompt, (), s.observation) for s in asked]
    common = min(common_prefix_length(prompts[0], ids) for ids in prompts)
    assert common > len("You fix bugs.Please do ")
    replies = policy.act(asked)
    check_against_plain_forward(policy, tiny, asked, replies)
    assert policy.prefilled_tokens == common + sum(len(ids) - common for ids in prompts)
    before, late = policy.prefilled_tokens, [make_state(9, (), "Please dance")]
    check_against_plain_forward(policy, tiny, late, policy.act(late))
    prompt = policy.renderer.prompt("You fix bugs.", (), "Please dance")
    assert policy.prefilled_tokens - before < len(prompt) - len("You fix bugs.")


def test_repeats_of_task_share_prompt(tiny, tokenizer):
    policy = HFPolicy(tiny, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=12)
    one = make_state(0)
    asked = [replace(one, key=(*one.key[:3], repeat, *one.key[4:])) for repeat in range(4)]
    replies = policy.act(asked)
    check_against_plain_forward(policy, tiny, asked, replies)
    length = len(policy.renderer.prompt(one.system_prompt, (), one.observation))
    assert policy.prefilled_tokens == length + len(asked)  # the last token's logits, for each
    assert len({reply.token_ids for reply in replies}) > 1


def test_store_too_small_changes_no_reply(tiny, tokenizer):
    policy, replies = replies_of(tiny, tokenizer, states(), temperature=1.0, cache_bytes=10)
    check_against_plain_forward(policy, tiny, states(), replies)
    assert len(policy.store) == 0


def test_replies_are_independent_of_batch_and_order(tiny, tokenizer):
    _, together = replies_of(tiny, tokenizer, states())
    _, reverse = replies_of(tiny, tokenizer, states()[::-1], batch_size=3)
    alone = [replies_of(tiny, tokenizer, [state])[1][0] for state in states()]
    for one, two, three in zip(together, reverse[::-1], alone, strict=True):
        assert one.token_ids == two.token_ids == three.token_ids
    assert len({reply.token_ids for reply in together}) > 1


def test_greedy_equals_transformers_generate(tiny, tokenizer):
    policy, replies = replies_of(tiny, tokenizer, states(4), temperature=0.0)
    for state, reply in zip(states(4), replies, strict=True):
        ids = torch.tensor([policy.renderer.prompt(state.system_prompt, (), state.observation)])
        out = tiny.generate(
            ids,
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=policy.renderer.end_id,
            pad_token_id=0,
        )
        assert reply.token_ids == tuple(out[0, ids.shape[1] :].tolist())
        assert reply.text == policy.renderer.decode(reply.token_ids).removesuffix("<|im_end|>")


def test_full_context_is_error_reply(tiny, tokenizer):
    long = make_state(1, (), "y" * 300)
    policy, replies = replies_of(tiny, tokenizer, [make_state(0), long], max_context=200)
    assert replies[1].error.startswith(CONTEXT_FULL) and replies[1].text is None
    assert replies[0].text is not None and not replies[0].error
    room = policy.renderer.prompt(long.system_prompt, (), long.observation)
    _, replies = replies_of(tiny, tokenizer, [long], max_context=len(room) + 2)
    assert 1 <= len(replies[0].token_ids) <= 2


def test_store_evicts_oldest(tiny, tokenizer):
    policy, _ = replies_of(tiny, tokenizer, states(), cache_bytes=100_000)
    assert 0 < policy.store.bytes <= 100_000 and len(policy.store) < 7


def test_sample_follows_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, 4)
    uniform = [(n + 0.5) / 4000 for n in range(4000)]
    for temperature in (1.0, 0.5):
        share = torch.bincount(sample(logits, uniform, temperature, 1.0)[0], minlength=4) / 4000
        assert torch.allclose(share, (logits[0] / temperature).softmax(-1), atol=1e-3)


def test_top_p_keeps_smallest_sufficient_set():
    probs = torch.tensor([[0.1, 0.5, 0.3, 0.1]])
    uniform = [(n + 0.5) / 1000 for n in range(1000)]
    chosen, _ = sample(probs.log().expand(1000, 4), uniform, 1.0, 0.7)
    assert set(chosen.tolist()) == {1, 2}
    assert math.isclose((chosen == 1).float().mean(), 0.625, abs_tol=0.002)
    flat = torch.zeros(50, 1000)  # the nucleus is larger than the 256 tokens that are tried first
    chosen, _ = sample(flat, [(n + 0.5) / 50 for n in range(50)], 1.0, 0.9)
    assert len(set(chosen.tolist())) == 50 and chosen.max() < 1000


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
def test_a_row_gets_the_same_beside_any_other_and_what_sorting_gives(top_p):
    """Narrow rows and wide ones, whose nuclei have from one to some ten thousand tokens."""
    generator = torch.Generator().manual_seed(0)
    width = torch.tensor([0.01, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0, 20.0])[:, None]
    logits = torch.randn(8, 20_001, generator=generator) * width
    uniform = torch.rand(8, generator=generator).tolist()
    tokens, logprobs = sample(logits, uniform, 1.0, top_p)
    for row, (aim, token) in enumerate(zip(uniform, tokens.tolist(), strict=True)):
        alone = sample(logits[row : row + 1], [aim], 1.0, top_p)
        assert (alone[0].item(), alone[1].item()) == (token, logprobs[row].item())
        probs = logits[row].double().softmax(-1)
        order = torch.arange(20_001) if top_p == 1 else probs.argsort(descending=True)
        before = probs[order].cumsum(0) - probs[order]
        kept = before < top_p
        whole = probs[order][kept].sum()
        place = (order == token).nonzero().item()
        assert kept[place] and before[place] / whole <= aim + 1e-6
        assert aim <= (before + probs[order])[place] / whole + 1e-6
        assert logprobs[row].item() == pytest.approx((probs[token] / whole).log().item(), abs=1e-5)


def test_invalid_settings_are_refused(tiny, tokenizer):
    with pytest.raises(ValueError, match="top_p"):
        HFPolicy(tiny, tokenizer, top_p=0.0)
