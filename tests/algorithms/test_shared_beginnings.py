"""Trees of one row with a common beginning: it is computed once, and no result changes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.engine import attention
from algorithms.engine.attention import TreeMask
from algorithms.engine.examples import example_trees
from algorithms.engine.learner import FILLER, Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import TokenTree, pack
from algorithms.objective import Objective
from tests.algorithms.conftest import tiny_model
from tests.algorithms.test_tree import example, grads, naive_loss, path, random_tree


def tree_of(rng: random.Random, beginning: list[int], size: int) -> TokenTree:
    """A random tree of ``size`` nodes whose first are a chain of the tokens ``beginning``."""
    grown = random_tree(rng, size, 50)
    chain = np.arange(-1, len(beginning) - 1)
    rest = np.maximum(grown.parent[len(beginning) :], len(beginning) - 1)
    tokens = np.concatenate([beginning, grown.token_ids[len(beginning) :]])
    weight = grown.ce_weight.copy()
    weight[0] = 0
    return replace(grown, token_ids=tokens, parent=np.concatenate([chain, rest]), ce_weight=weight)


def family(seed: int) -> list[TokenTree]:
    """Common beginnings of several lengths, one tree that is the beginning of another, two equal
    ones, one that has nothing in common with any, a lone root and a forest."""
    rng = random.Random(seed)
    system = [7, 8, 9, 7, 7, 3]
    trees = [
        tree_of(rng, [*system, 1, 2], 20),
        tree_of(rng, [*system, 1, 4, 4], 15),
        tree_of(rng, [*system, 2], 12),
        tree_of(rng, system, 6),
        tree_of(rng, [5, 8, 9], 11),
        tree_of(rng, [7], 1),
    ]
    forest = np.array([-1, 0, -1, 2, 3])
    trees.append(
        TokenTree(np.array([7, 8, 7, 8, 9]), forest, np.ones(5, np.float32), np.zeros(5, int))
    )
    trees.append(replace(trees[0], name="again"))
    rng.shuffle(trees)
    return trees


def prefixes(trees: list[TokenTree]) -> int:
    """How many nodes are left when shared paths are merged, counted by their tokens."""
    beginnings = {
        tuple(path(tree, node)) for tree in trees for node in range(tree.shared_path_length)
    }
    return len(beginnings) + sum(len(tree) - tree.shared_path_length for tree in trees)


@pytest.mark.parametrize("multiple", [1, 16])
def test_nodes_attend_to_ancestors_only(multiple):
    for seed in range(10):
        trees = family(seed)
        packed = pack(trees, multiple)
        t = prefixes(trees)
        assert len(packed.end) == t + -t % multiple
        tokens, end = packed.input_ids[0].tolist(), packed.end.tolist()
        pairs = [(tree, node) for tree in trees for node in tree.loss_nodes]
        assert len(pairs) == len(packed.target)
        for m, (tree, node) in enumerate(pairs):
            source = int(packed.source[m])
            seen = [tokens[j] for j in range(source + 1) if source < end[j]]
            assert seen == path(tree, int(tree.parent[node]))
            assert packed.position_ids[0, source] == len(seen) - 1
            assert packed.target[m] == tree.token_ids[node] == tokens[int(packed.node[m])]
            assert packed.streams["ce_weight"][m] == tree.ce_weight[node]
        assert sorted(x for low, high in packed.spans for x in range(low, high)) == list(
            range(len(tokens))
        )


@pytest.mark.parametrize("window", [None, 4])
def test_blocks_equal_dense_mask(monkeypatch, window):
    monkeypatch.setattr(attention, "BLOCK", 7)
    for seed in range(5):
        packed = pack(family(seed))
        t, end, depth = len(packed.end), packed.end, packed.position_ids[0]
        row, column = torch.arange(t)[:, None], torch.arange(t)[None]
        expected = (column <= row) & (row < end[None])
        if window:
            expected &= depth[:, None] - depth[None] < window
        shown = torch.zeros_like(expected)
        for block in TreeMask(packed).blocks(window):
            part = torch.ones(block.high - block.low, len(block.columns), dtype=torch.bool)
            part[:, len(block.columns) - block.hidden.shape[1] :] = ~block.hidden
            shown[block.low : block.high, block.columns] = part
        assert torch.equal(shown, expected)


@pytest.mark.slow
def test_gradient_equals_separate_sequences(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 7)
    model, trees = tiny_model(50), family(3)
    expected = naive_loss(model, trees)
    expected.backward()
    wanted = grads(model)
    loss = Learner(model, None, TrainingConfig()).loss(trees).loss / denominator(trees)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    for name, grad in grads(model).items():
        assert torch.allclose(grad, wanted[name], atol=1e-5, rtol=1e-4), name


def with_all_streams(tree: TokenTree, seed: int) -> TokenTree:
    draw, n = np.random.default_rng(seed), len(tree)

    def some() -> np.ndarray:
        return (draw.random(n) * (draw.random(n) < 0.6)).astype(np.float32)

    return replace(
        tree,
        pg_weight=some(),
        advantage=draw.normal(size=n).astype(np.float32),
        behavior=-4 * draw.random(n).astype(np.float32),
        kl_weight=some(),
        score=-4 * draw.random(n).astype(np.float32),
        sequence=draw.integers(0, 3, n),
        top_ids=draw.integers(0, 50, (n, 2 + seed % 2)),
        top_logprobs=np.log(draw.random((n, 2 + seed % 2)) / 4).astype(np.float32),
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("divergence", ["k2", "k3", "jsd"])
@pytest.mark.parametrize("truncation", [None, 2.0])
def test_streams_equal_those_of_separate_rows(ratio, divergence, truncation):
    trees = [with_all_streams(tree, seed) for seed, tree in enumerate(family(1))]
    how = Objective(ratio=ratio, divergence=divergence, truncation=truncation)
    learner = Learner(tiny_model(50), None, TrainingConfig(), how)
    if truncation:
        learner._compute_old_logprobs(trees)
    apart = [learner.loss([tree]) for tree in trees if len(tree.loss_nodes)]
    sum(one.loss for one in apart).backward()
    wanted = grads(learner.model)
    together = learner.loss(trees)
    together.loss.backward()
    assert torch.allclose(together.loss, sum(one.loss for one in apart), rtol=1e-5)
    for name in ("correct", "clipped", "divergence"):
        assert abs(getattr(together, name) - sum(getattr(one, name) for one in apart)) < 1e-3
    for name, grad in grads(learner.model).items():
        assert (grad - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_episodes_share_system_prompt(tokenizer):
    rng, renderer = random.Random(5), Renderer(tokenizer)
    examples = [example(rng, 2) for _ in range(4)]
    trees = list(example_trees(examples, renderer))
    common = len(renderer.opening("You fix bugs.", "")) - len(renderer.opening("", "")) + 1
    assert len(pack(trees).end) <= sum(map(len, trees)) - (len(trees) - 1) * common


def test_padding_is_not_shared_with_trees():
    first = replace(FILLER[0], token_ids=np.array([0, 3]))
    packed = pack([first, *FILLER], 16)
    assert len(packed.end) == 16 and packed.end[3:].tolist() == list(range(4, 17))
