"""The sampler, the scorer, the trainer and transformers' own forward give equal log-probs, for each
model type that is accepted; every other one is refused when it is loaded and before a run."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers

from algorithms.base import Target, TrainingExample
from algorithms.engine import forward as passes
from algorithms.engine.checkpoint import load_model
from algorithms.engine.divergence import divergences
from algorithms.engine.examples import example_tree
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.row_attention import RowMask
from algorithms.engine.scorer import HFScorer
from algorithms.engine.supported import PROVEN, check_folder, check_student
from experiments.pipeline import preflight
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, make_state
from tests.algorithms.test_attention import TINY
from tests.algorithms.test_tree import grads, naive_loss
from tests.experiments.test_configuration import configuration

WINDOW = 9  # tokens; the prompts have some 70
SIZES = TINY | {
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": None,
}
LOCAL = {"sliding_window": WINDOW}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, **LOCAL}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


def rope(kind: str, **options: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **options}}


YARN = rope("yarn", original_max_position_embeddings=32)
LLAMA3 = rope(
    "llama3", original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0
)
GEMMA = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}
FULL = """
Apertus Arcee Cohere Ernie4_5 Gemma Glm Glm4 Helium HunYuanDenseV1 Llama Olmo Olmo2 Phi Qwen2 Qwen3
SeedOss SmolLM3 Starcoder2 Phi3 Granite
"""
LOCALS = "Mistral Ministral Ministral3 Phi3 Starcoder2 Cohere2 Olmo3 Exaone4 Cwm"
# (class, options of its configuration), by the name of the case
ACCEPTED: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in FULL.split()},
    **{f"{name}-window": (name, LOCAL) for name in LOCALS.split()},
    "GPTNeoX": ("GPTNeoX", {"num_key_value_heads": None}),
    "Gemma3-window": ("Gemma3", MIXED),
    "Gemma3-two-ropes": ("Gemma3", MIXED | GEMMA),
    "Gemma3-capped": ("Gemma3", MIXED | {"final_logit_softcapping": 2.0}),
    "Gemma3-scaled-queries": ("Gemma3", MIXED | {"query_pre_attn_scalar": 3}),
    "Mistral-none": ("Mistral", {"sliding_window": None}),
    "Mistral-window-of-one": ("Mistral", {"sliding_window": 1}),
    "Mistral-wide": ("Mistral", {"sliding_window": 4096}),
    "Qwen2-window": ("Qwen2", {"use_sliding_window": True, "max_window_layers": 2, **LOCAL}),
    "Qwen3-window": ("Qwen3", {"use_sliding_window": True, **MIXED}),
    "Qwen3-switched-off": ("Qwen3", {"use_sliding_window": False, **LOCAL}),
    "SmolLM3-nope": ("SmolLM3", {"no_rope_layers": [1, 1, 0, 1]}),
    "SmolLM3-window": ("SmolLM3", {"use_sliding_window": True, **MIXED}),
    "Llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama-llama3": ("Llama", LLAMA3),
    "Llama-yarn": ("Llama", YARN),
    "Llama-linear": ("Llama", rope("linear")),
    "Llama-untied": ("Llama", {"tie_word_embeddings": False}),
    "Llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "Llama-wide-heads": ("Llama", {"head_dim": 12}),
    "Granite-scaled": (
        "Granite",
        {
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
        },
    ),
    "Cohere-scaled": ("Cohere", {"logit_scale": 0.25, "use_qk_norm": True}),
    "Phi-partial": ("Phi", {"partial_rotary_factor": 0.5}),
    "GPTNeoX-partial": ("GPTNeoX", {"num_key_value_heads": None, "rotary_pct": 0.5}),
    "GraniteMoe": ("GraniteMoe", {**EXPERTS, "logits_scaling": 4.0}),
    "Mixtral-window": ("Mixtral", {**EXPERTS, **LOCAL}),
    "Olmoe": ("Olmoe", EXPERTS),
    "Qwen2Moe": ("Qwen2Moe", EXPERTS),
    "Qwen3Moe": ("Qwen3Moe", EXPERTS),
    "Qwen3Moe-window": ("Qwen3Moe", {**EXPERTS, "use_sliding_window": True, **LOCAL}),
}


def made(tokenizer, name: str, options: dict[str, object]):
    torch.manual_seed(0)
    about = SIZES | {"vocab_size": len(tokenizer)} | options
    text = f"{name}Text" if name in ("Gemma3", "Llama4") else name
    config = getattr(transformers, f"{text}Config")(**about)
    return getattr(transformers, f"{name}ForCausalLM")(config).float().eval()


def accepted(tokenizer, case: str):
    return made(tokenizer, *ACCEPTED[case])


def played(model, tokenizer, turns: int = 3, **options):
    """Three episodes side by side, of turns that another one cached; the log-probs with them."""
    policy = HFPolicy(model, tokenizer, **{"max_new_tokens": 12, "temperature": 1.0, **options})
    history: list[tuple[Turn, ...]] = [()] * 3
    for turn in range(turns):
        asked = [make_state(n, history[n], f"out {turn}" + "x" * 5 * n) for n in range(3)]
        for n, reply in enumerate(policy.act(asked)):
            made = Turn(
                asked[n].observation, "student", reply.text, None, reply.token_ids, reply.logprobs
            )
            history[n] = (*history[n], made)
    return policy.renderer, [make_episode(list(h), f"e{n}") for n, h in enumerate(history)]


def plain(model, renderer, episode, temperature: float = 1.0) -> list[list[float]]:
    """Of each turn, by transformers' own forward pass over the whole conversation."""
    found = []
    for n, turn in enumerate(episode.turns):
        prompt = renderer.prompt(episode.system_prompt, episode.turns[:n], turn.observation)
        ids = torch.tensor([[*prompt, *turn.token_ids]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        logp = (logits / temperature).log_softmax(-1)
        found.append(logp.gather(1, torch.tensor(turn.token_ids)[:, None])[:, 0].tolist())
    return found


def of_trainer(model, renderer, episode, temperature: float = 1.0) -> list[float]:
    turns = range(len(episode.turns))
    tree = example_tree(TrainingExample(episode, tuple(Target(n, None) for n in turns)), renderer)
    Learner(model, None, TrainingConfig())
    with torch.no_grad():
        return passes.forward(model, [tree], 0, temperature)[0].logprobs.tolist()


def test_every_supported_type_is_compared() -> None:
    names = {"Gemma3": "Gemma3Text"}
    types = {
        getattr(transformers, f"{names.get(name, name)}Config").model_type
        for name, _ in ACCEPTED.values()
    }
    assert types == PROVEN


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ACCEPTED)
def test_sampler_scorer_and_trainer_agree(tokenizer, case) -> None:
    model = accepted(tokenizer, case)
    renderer, episodes = played(model, tokenizer, top_p=1.0)
    wanted = [plain(model, renderer, item) for item in episodes]
    scorer = HFScorer(model, tokenizer, "other")
    for item, expected, scores in zip(episodes, wanted, scorer.score(episodes), strict=True):
        for turn, logprobs, score in zip(item.turns, expected, scores, strict=True):
            assert turn.logprobs == pytest.approx(logprobs, abs=3e-5)
            assert score.logprobs[: len(logprobs)] == pytest.approx(logprobs, abs=3e-5)
        together = of_trainer(model, renderer, item)
        assert together == pytest.approx([value for turn in expected for value in turn], abs=3e-5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", [case for case in ACCEPTED if "window" in case])
def test_sliding_windows_matter_at_this_length(tokenizer, case, monkeypatch) -> None:
    """Else the test above would pass with any mask."""
    model = accepted(tokenizer, case)
    renderer, episodes = played(model, tokenizer, 1, top_p=1.0)
    policy = HFPolicy(model, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=12)
    groups, windows = RowMask.groups, set()

    def without_window(mask, window):
        windows.add(window)
        return groups(mask, None)

    monkeypatch.setattr(RowMask, "groups", without_window)
    reply = policy.act([make_state(2, (), episodes[2].turns[0].observation)])[0]
    assert windows - {None}
    (wanted,) = plain(model, renderer, episodes[2])
    assert reply.token_ids != episodes[2].turns[0].token_ids or reply.logprobs != pytest.approx(
        wanted, abs=1e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["Granite-scaled", "Cohere-scaled", "Gemma3-capped"])
def test_gradients_of_scaled_and_capped_logits(tokenizer, case) -> None:
    model = accepted(tokenizer, case)
    renderer, episodes = played(model, tokenizer, 2, top_p=1.0)
    trees = [
        example_tree(TrainingExample(item, (Target(0, "ab"), Target(1, None))), renderer)
        for item in episodes
    ]
    expected = naive_loss(model, trees)
    expected.backward()
    wanted = grads(model)
    loss = Learner(model, None, TrainingConfig()).loss(trees).loss / denominator(trees)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, grad in grads(model).items():
        assert torch.allclose(grad, wanted[name], atol=1e-5, rtol=1e-4), name


def test_divergences_use_scaled_logits(tokenizer) -> None:
    model, other = accepted(tokenizer, "Granite-scaled"), accepted(tokenizer, "Granite-scaled")
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(1.1)
    renderer, (item, *_) = played(model, tokenizer, 1, top_p=1.0)
    turn = item.turns[0]
    ids = [*renderer.prompt(item.system_prompt, (), turn.observation), *turn.token_ids]
    p, q = (
        m(torch.tensor([ids])).logits[0, -len(turn.token_ids) - 1 : -1].log_softmax(-1).detach()
        for m in (model, other)
    )
    (found,) = divergences(model, other, item, renderer)
    assert found.reverse == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "soft caps": ("Gemma2", {}, "softcap"),
    "sinks": ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
    "recurrence": ("Mamba", {"state_size": 4}, "recurrent"),
    "linear attention": ("Qwen3Next", {"num_experts": 0}, "linear_attention"),
    "convolutions": ("Lfm2", {"full_attn_idxs": [0]}, "conv"),
    "chunks": ("Llama4", {"num_local_experts": 2}, "chunked_attention"),
    "latent attention": ("DeepseekV3", {"n_routed_experts": 8}, "MLA"),
    "ALiBi": ("Bloom", {"n_head": 4}, "ALiBi"),
    "logits changed unseen": ("NanoChat", {}, "nanochat"),
    "no keyword arguments": ("StableLm", {}, "stablelm"),
    "two attentions a layer": ("DiffLlama", {}, "diffllama"),
    "length-dependent rope": ("Llama", rope("dynamic"), "dynamic"),
    "a rope for long texts": (
        "Phi3",
        rope(
            "longrope",
            short_factor=[1.0] * 4,
            long_factor=[2.0] * 4,
            original_max_position_embeddings=32,
        ),
        "longrope",
    ),
    "seeing ahead": ("Gemma3", {"use_bidirectional_attention": True}, "bidirectional"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", REFUSED)
def test_untested_types_are_refused_everywhere(tokenizer, tmp_path, case) -> None:
    name, options, message = REFUSED[case]
    model = made(tokenizer, name, options)
    for take in (
        lambda: HFPolicy(model, tokenizer),
        lambda: HFScorer(model, tokenizer, "teacher"),
        lambda: Learner(model, tokenizer, TrainingConfig()),
    ):
        with pytest.raises(SetupError, match=message):
            take()
    model.config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SetupError, match=message):
        load_model(tmp_path)
    for given in ([f"model.path={tmp_path}"], ["teacher=hf", f"teacher.path={tmp_path}"]):
        with pytest.raises(SetupError, match=message):
            preflight.check(configuration(*given, "sandbox=process"))


def test_unexpected_windows_are_refused(tokenizer) -> None:
    model = accepted(tokenizer, "Mistral-window")
    model.config.layer_types = ["full_attention"] * 4
    with pytest.raises(SetupError, match="4 of them with a sliding window"):
        HFPolicy(model, tokenizer)


@pytest.mark.parametrize("where", ["before", "after"])
def test_changed_logits_are_refused(tokenizer, where) -> None:
    model = accepted(tokenizer, "Llama")
    original = model.forward

    def scaled(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out

    if where == "after":
        model.forward = scaled
    else:
        model.lm_head.register_forward_pre_hook(lambda _module, args: (args[0] * 2,))
    with pytest.raises(SetupError, match="output layer"):
        HFPolicy(model, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Llama", {"attention_dropout": 0.1}),
        ("Starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1}),
        ("Phi", {"resid_pdrop": 0.1}),
        ("GPTNeoX", {"hidden_dropout": 0.1}),
        ("Mixtral", {**EXPERTS, "router_jitter_noise": 0.1}),
    ],
)
def test_dropout_is_refused_for_students_only(tokenizer, tmp_path, name, options) -> None:
    model = made(tokenizer, name, {"num_key_value_heads": 4, **options})
    key = next(key for key in options if re.search("drop|jitter", key))
    with pytest.raises(SetupError, match=f"{key}=0.1.* Set "):
        check_student(model.config.to_dict(), "it")
    renderer, (item, *_) = played(model, tokenizer, 1, top_p=1.0)
    tree = example_tree(TrainingExample(item, (Target(0, None),)), renderer)
    with pytest.raises(SetupError, match=key):
        Learner(model, tokenizer, TrainingConfig()).train([tree])
    model.config.save_pretrained(tmp_path)
    with pytest.raises(SetupError, match=key):
        preflight.check(configuration(f"model.path={tmp_path}", "sandbox=process"))
    preflight.check_teacher(configuration("teacher=hf", f"teacher.path={tmp_path}"))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), ("[]", "no JSON object"), ("{}", "model_type")]
)
def test_invalid_configuration_is_refused(tmp_path, text, message) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SetupError, match=message):
        check_folder(tmp_path)


def test_encoder_decoders_are_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(SetupError, match="t5"):
        load_model(tmp_path)
    odd = {"model_type": "llama", "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(odd))
    with pytest.raises(SetupError, match="encoder and a decoder"):
        load_model(tmp_path)
