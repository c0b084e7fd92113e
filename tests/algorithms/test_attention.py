"""Attention over trees: both masks, both paths, and the models that are supported or refused.

FlexAttention's compiled backward pass needs a GPU. It is tested by
``experiments/benchmarks/tree_training.py --device cuda``, which fails if gradients differ.
"""

import random
import warnings

import numpy as np
import pytest
import torch
import transformers
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from algorithms.engine import attention
from algorithms.engine.attention import TreeMask, _BlockAttention
from algorithms.engine.forward import forward, use_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.tree import pack
from swe_gym_env.errors import SetupError
from tests.algorithms.conftest import tiny_model
from tests.algorithms.test_tree import grads, naive_loss, random_tree

WINDOWS = [None, 1, 4, 11]


def row(seed, sizes=(40, 1, 23, 9), multiple=1):
    rng = random.Random(seed)
    return pack([random_tree(rng, size, 50) for size in sizes], multiple)


def dense(packed, window):
    """The mask [t, t], computed for every pair of nodes, tree by tree."""
    seen = np.zeros((len(packed.end), len(packed.end)), dtype=bool)
    end, depth = packed.end.tolist(), packed.position_ids[0].tolist()
    for start, stop in packed.spans:
        for i in range(start, stop):
            for j in range(start, i + 1):
                near = window is None or depth[i] - depth[j] < window
                seen[i, j] = i < end[j] and near
    return torch.from_numpy(seen)


@pytest.mark.parametrize("window", WINDOWS)
def test_blocks_contain_visible_columns_only(monkeypatch, window):
    monkeypatch.setattr(attention, "BLOCK", 7)
    for seed in range(5):
        packed = row(seed)
        expected = dense(packed, window)
        shown = torch.zeros_like(expected)
        for block in TreeMask(packed).blocks(window):
            part = torch.ones(block.high - block.low, len(block.columns), dtype=torch.bool)
            part[:, len(block.columns) - block.hidden.shape[1] :] = ~block.hidden
            shown[block.low : block.high, block.columns] = part
            assert block.hidden.all(0).sum() <= (0 if window is None else len(block.columns))
        assert torch.equal(shown, expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_flex_attention_mask_equals_dense_mask(window):
    for seed in range(5):
        packed = row(seed, multiple=16)
        assert len(packed.end) == 80 and len(packed.spans) == 5
        ours, expected = TreeMask(packed).flex(window, size=16), dense(packed, window)
        torchs = create_block_mask(
            lambda _b, _h, i, j, seen=expected: seen[i, j], None, None, 80, 80, "cpu", BLOCK_SIZE=16
        )
        index = torch.arange(80)
        assert torch.equal(ours.mask_mod(0, 0, index[:, None], index[None]), expected)
        if window is None:
            assert torch.equal(ours.to_dense(), torchs.to_dense())
            assert torch.equal(ours.full_kv_num_blocks, torchs.full_kv_num_blocks)
        assert bool((ours.to_dense() >= torchs.to_dense()).all())
        tiles = expected.view(5, 16, 5, 16).transpose(1, 2).flatten(2).all(-1)
        for i, (count, found) in enumerate(
            zip(ours.full_kv_num_blocks[0, 0], ours.full_kv_indices[0, 0], strict=True)
        ):
            assert all(tiles[i, j] for j in found[:count])


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 5])
def test_both_paths_equal_masked_softmax(monkeypatch, window):
    monkeypatch.setattr(attention, "BLOCK", 24)
    packed = row(3, (70, 30, 20), 128)
    mask, size = TreeMask(packed), len(packed.end)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, size, 8), (2, size, 8), (2, size, 6))
    )
    scores = (0.3 * q @ k[:, None].transpose(-1, -2)).masked_fill(
        ~dense(packed, window), -torch.inf
    )
    expected = scores.softmax(-1) @ v[:, None]
    found = _BlockAttention.apply(q, k, v, mask.blocks(window), 0.3)
    assert torch.allclose(found, expected)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    # gradients of keys and values are summed in float32
    for got, want in zip(
        torch.autograd.grad((found * weights).sum(), (q, k, v)), wanted, strict=True
    ):
        assert torch.allclose(got, want, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about running FlexAttention without compilation
        flexed = flex_attention(
            q.detach().reshape(1, 6, size, 8).float(),
            k.detach()[None].float(),
            v.detach()[None].float(),
            block_mask=mask.flex(window),
            scale=0.3,
            enable_gqa=True,
        )
    assert torch.allclose(flexed[0].view(2, 3, size, 6).double(), expected, atol=1e-5)


def kept_bytes(model, length):
    """What autograd holds between forward and backward, for a tree of ``length`` tokens."""
    kept = {}

    def record(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        predicted, _ = forward(model, [random_tree(random.Random(0), length, 50)])
    assert predicted.logprobs.requires_grad
    return sum(kept.values()) - sum(p.nbytes for p in model.parameters())


def test_attention_memory_is_linear_in_length():
    model = tiny_model(50)
    use_trees(model)
    assert kept_bytes(model, 4000) < 4.2 * kept_bytes(model, 1000)


TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


def tiny(family, config=None, **options):
    torch.manual_seed(0)
    made = getattr(transformers, f"{config or family}Config")(**TINY | options)
    return getattr(transformers, f"{family}ForCausalLM")(made).float().eval()


MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Mistral", {"sliding_window": 4}),
        ("Qwen3", {"use_sliding_window": True, **MIXED}),
        ("Gemma3", {"config": "Gemma3Text", **MIXED}),
    ],
)
def test_sliding_window_extends_up_the_branch(monkeypatch, family, options):
    monkeypatch.setattr(attention, "BLOCK", 7)
    rng, model = random.Random(4), tiny(family, **options)
    trees = [random_tree(rng, size, 50) for size in (30, 12)]
    expected = naive_loss(model, trees)
    expected.backward()
    wanted = grads(model)
    loss = Learner(model, None, TrainingConfig()).loss(trees).loss / denominator(trees)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    for name, grad in grads(model).items():
        assert torch.allclose(grad, wanted[name], atol=1e-5, rtol=1e-4), name


REFUSED = {
    "Mamba": ({"state_size": 4}, "recurrent|linear_attention"),
    "Qwen3Next": ({"num_experts": 0}, "linear_attention"),
    "Lfm2": ({"full_attn_idxs": [0]}, "conv"),
    "Gemma2": ({}, "softcap"),
    "Bloom": ({"n_head": 4}, "does not let its attention be replaced"),
    "GptOss": ({"num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_unsupported_models_are_refused_before_training(family):
    options, message = REFUSED[family]
    with pytest.raises(SetupError, match=message):
        Learner(tiny(family, **options), None, TrainingConfig())


def test_attention_beyond_softmax_is_refused():
    with pytest.raises(SetupError, match="softcap"):
        Learner(tiny("Gemma2", final_logit_softcapping=None), None, TrainingConfig())
    learner = Learner(tiny("Llama", attention_dropout=0.1), None, TrainingConfig())
    with pytest.raises(SetupError, match="attention_dropout"):
        learner.train([random_tree(random.Random(0), 9, 50)])


def test_layers_unlike_configuration_are_refused():
    model, tree = tiny("Llama"), random_tree(random.Random(0), 9, 50)
    learner = Learner(model, None, TrainingConfig())
    model.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(SetupError, match="0 of them with a sliding window"):
        learner.loss([tree])
    model.config.layer_types = ["full_attention"] * 3
    with pytest.raises(SetupError, match="2 of 3 layers"):
        learner.loss([tree])


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_checkpointing_keeps_gradients(lora_rank):
    trees = [random_tree(random.Random(n), 30, 50) for n in range(3)]
    found, kept = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = TrainingConfig(checkpointing=checkpointing, lora_rank=lora_rank)
        learner = Learner(tiny_model(50), None, config)
        learner.model.train()
        loss = learner.loss(trees).loss
        loss.backward()
        named = learner.model.named_parameters()
        found.append({n: p.grad for n, p in named if p.grad is not None})
        kept.append(kept_bytes(learner.model, 300))
    assert len(found[0]) > 2 and found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
    assert kept[1] < 0.4 * kept[0]
