import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algorithms.base import Target, TrainingExample
from algorithms.engine import attention
from algorithms.engine.examples import example_tree
from algorithms.engine.learner import Learner, TrainingConfig, micro_batches
from algorithms.engine.losses import denominator
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import TokenTree, pack
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, tiny_model, words


def random_tree(rng: random.Random, size: int, vocabulary: int) -> TokenTree:
    # Depth first: a node hangs from the one before it, or from one of its nearer ancestors
    parent, path_nodes = [-1], [0]
    for node in range(1, size):
        del path_nodes[len(path_nodes) - min(rng.choice([0, 0, 0, 1, 2, 4]), len(path_nodes) - 1) :]
        parent.append(path_nodes[-1])
        path_nodes.append(node)
    weight = [rng.choice([0.0, 0.0, 1.0, 0.5]) for _ in range(size)]
    return TokenTree(
        np.array([rng.randrange(vocabulary) for _ in range(size)]),
        np.array(parent),
        np.array(weight, dtype=np.float32),
        np.zeros(size, dtype=np.int64),
    )


def path(tree: TokenTree, node: int) -> list[int]:
    ids = []
    while node >= 0:
        ids.append(int(tree.token_ids[node]))
        node = int(tree.parent[node])
    return ids[::-1]


def naive_loss(model, trees) -> torch.Tensor:
    """The reference: one causal sequence for each weighted token, nothing shared or masked."""
    total = torch.zeros(())
    for tree in trees:
        for node in np.flatnonzero(tree.ce_weight):
            if tree.parent[node] >= 0:
                ids = torch.tensor([path(tree, node)])
                logits = model(ids[:, :-1]).logits[0, -1]
                total = total + float(tree.ce_weight[node]) * F.cross_entropy(logits, ids[0, -1])
    return total / denominator(trees)


def grads(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


def test_packed_trees_equal_separate_sequences(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 7)
    rng, model = random.Random(1), tiny_model(50)
    trees = [random_tree(rng, size, 50) for size in (30, 1, 17, 9)]
    expected = naive_loss(model, trees)
    expected.backward()
    wanted = grads(model)
    learner = Learner(model, None, TrainingConfig())
    loss = learner.loss(trees).loss / denominator(trees)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    got = grads(model)
    for name, grad in wanted.items():
        assert torch.allclose(got[name], grad, atol=1e-5, rtol=1e-4), name


def test_node_attends_to_ancestors_and_itself():
    for seed in range(20):
        tree = random_tree(random.Random(seed), 40, 50)
        for node in range(len(tree)):
            ancestors, at = set(), node
            while at >= 0:
                ancestors.add(at)
                at = int(tree.parent[at])
            assert set(np.flatnonzero(tree.visible[node])) == ancestors
            assert tree.depth[node] == len(ancestors) - 1


def test_unordered_nodes_are_refused():
    one = random_tree(random.Random(0), 3, 50)
    late = replace(one, parent=np.array([-1, 2, 0]))
    gap = random_tree(random.Random(0), 4, 50)
    gap = replace(gap, parent=np.array([-1, 0, 0, 1]))
    for tree, message in ((late, "before its parent"), (gap, "depth-first")):
        with pytest.raises(ValueError, match=message):
            pack([tree])


def example(rng: random.Random, turns: int) -> TrainingExample:
    steps = [Turn(words(rng), "student", words(rng)) for _ in range(turns)]
    targets = [Target(n, rng.choice([None, step.text, words(rng)])) for n, step in enumerate(steps)]
    return TrainingExample(make_episode(steps), tuple(rng.sample(targets, rng.randint(1, turns))))


def test_tree_loss_equals_one_sequence_per_label(tokenizer):
    rng, renderer, model = random.Random(5), Renderer(tokenizer), tiny_model(len(tokenizer))
    examples = [example(rng, rng.randint(1, 5)) for _ in range(6)]
    total, weight = torch.zeros(()), 0
    for item in examples:
        for target in item.targets:
            seen = item.episode.turns[: target.turn]
            observation = item.episode.turns[target.turn].observation
            prompt = renderer.prompt(item.episode.system_prompt, seen, observation)
            text = target.text if target.text is not None else item.episode.turns[target.turn].text
            label = list(renderer.label(text).token_ids)
            logits = model(torch.tensor([prompt + label])).logits[0, len(prompt) - 1 : -1]
            total = total + F.cross_entropy(logits, torch.tensor(label), reduction="sum")
            weight += len(label)
    (total / weight).backward()
    wanted = grads(model)
    trees = [example_tree(item, renderer) for item in examples]
    assert denominator(trees) == weight
    loss = Learner(model, None, TrainingConfig()).loss(trees).loss
    (loss / weight).backward()
    assert abs(loss.item() - total.item()) / weight < 1e-5
    for name, grad in grads(model).items():
        assert torch.allclose(grad, wanted[name], atol=1e-5, rtol=1e-4), name


def test_branch_shares_common_tokens(tokenizer):
    renderer = Renderer(tokenizer)
    turns = [Turn("o1", "student", "abXY"), Turn("o2", "student", "done")]
    tree = example_tree(
        TrainingExample(make_episode(turns), (Target(0, "abZ"), Target(1, None))), renderer
    )
    learned = np.flatnonzero((tree.ce_weight != 0) & (tree.segment == 0))
    assert renderer.decode(tree.token_ids[learned]) == "abZ<|im_end|>"
    header = path(tree, int(tree.parent[learned[0]]))
    assert header == renderer.opening("You fix bugs.", "o1")
    # the executed turn branches off beside the label, from the last node that both share
    executed = int(np.flatnonzero(tree.token_ids == renderer.encode("X")[0])[-1])
    assert tree.parent[executed] == learned[1] != executed - 1
    packed = pack([tree])
    pair = packed.target.tolist().index(int(tree.token_ids[learned[2]]))
    assert packed.source[pair] == learned[1] and packed.node[pair] == learned[2]
    # every token of history and labels is stored once
    history = renderer.prompt("You fix bugs.", turns[:1], "o2")
    assert len(tree) == len(history) + 2 + len(renderer.label("done").token_ids)


def test_tree_ends_with_last_label(tokenizer):
    renderer = Renderer(tokenizer)
    turns = [Turn(f"o{n}", "student", "x") for n in range(4)]
    tree = example_tree(TrainingExample(make_episode(turns), (Target(1, "y"),)), renderer)
    assert tree.segment.max() == 1
    assert example_tree(TrainingExample(make_episode(turns), ()), renderer) is None
    with pytest.raises(ValueError, match="no turn 9"):
        example_tree(TrainingExample(make_episode(turns), (Target(9, "y"),)), renderer)


def test_micro_batches_respect_budget():
    rng = random.Random(0)
    trees = [random_tree(rng, rng.randint(1, 40), 9) for _ in range(30)]
    rows = list(micro_batches(trees, 60))
    assert sorted(id(tree) for row in rows for tree in row) == sorted(map(id, trees))
    assert all(sum(map(len, row)) <= 60 for row in rows)
    assert [len(row) for row in micro_batches(trees, 1)] == [1] * 30


def test_windowed_history_is_laid_out_as_shown(tokenizer):
    from swe_gym_env.rollout.history import windowed

    renderer = Renderer(tokenizer)
    turns = [Turn(f"{n}" * 90, "student", f"say {n}", None, (n + 1, 5)) for n in range(5)]
    episode = make_episode(turns, metadata={"history": 2})
    labels = (Target(0, None), Target(2, "two"), Target(4, "four"), Target(4, None, 0.5))
    tree = example_tree(TrainingExample(episode, labels), renderer)
    for target in labels:
        reply = renderer.reply(turns[target.turn])
        if target.text:
            reply = renderer.label(target.text)
        seen = windowed(turns[: target.turn], 2)
        ids = renderer.prompt(episode.system_prompt, seen, turns[target.turn].observation)
        ids += reply.token_ids[: len(reply.token_ids) - reply.unsampled]
        ends = [n for n in np.flatnonzero(tree.ce_weight) if path(tree, n) == ids]
        assert len(ends) == 1 and tree.ce_weight[ends[0]] == target.weight
    text = renderer.decode(path(tree, len(tree) - 1))
    assert "0" * 90 in text and "3" * 90 in text and "4" * 90 in text
    assert "1" * 90 not in text and text.count("90 characters, left out") == 2
    whole = example_tree(TrainingExample(make_episode(turns), labels), renderer)
    wide = example_tree(
        TrainingExample(make_episode(turns, metadata={"history": 9}), labels), renderer
    )
    assert len(whole) == len(wide) and whole.ce_weight.sum() == wide.ce_weight.sum()
