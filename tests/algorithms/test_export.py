"""Plain sequences against the trees that they are from, and against TRL, which trains on them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from algorithms.base import Target, TrainingExample
from algorithms.engine.examples import example_trees
from algorithms.engine.export import (
    IGNORED,
    check_exportable,
    conversations,
    paths,
    token_sequences,
)
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.rendering import Renderer
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, tiny_model, words
from tests.algorithms.families import family
from tests.algorithms.sampled import assert_close, grads
from tests.algorithms.test_thinking import MODES, thoughtful
from tests.algorithms.test_tree import path, random_tree


def dagger_examples(rng: random.Random, renderer: Renderer, count: int) -> list[TrainingExample]:
    """Student and teacher turns, with labels that begin like each other or like the turn."""
    examples = []
    for n in range(count):
        turns, targets = [], []
        for at in range(rng.randint(1, 4)):
            reply = words(rng)
            ids = (*renderer.encode(reply), *[renderer.end_id] * rng.randint(0, 1))
            sampled = rng.random() < 0.5
            turns.append(Turn(words(rng), "student", reply, None, ids if sampled else ()))
            if rng.random() < 0.3:
                targets.append(Target(at, None))
            else:
                texts = [reply[:3] + words(rng), reply][: rng.randint(0, 2)]
                targets += [Target(at, text) for text in dict.fromkeys(texts)]
        examples.append(TrainingExample(make_episode(turns, f"e{n}"), tuple(targets)))
    return examples


def test_sequences_of_random_trees_carry_each_weight_once():
    for seed in range(50):
        tree = random_tree(random.Random(seed), 60, 50)
        trained: Counter[tuple[int, ...]] = Counter()
        for row in token_sequences([tree]):
            for end, weight in enumerate(row.weights, 1):
                if weight:
                    trained[tuple(row.input_ids[:end])] += weight
            assert row.weights[-1] and row.labels[-1] == row.input_ids[-1]
        expected: Counter[tuple[int, ...]] = Counter()
        for node in tree.loss_nodes:
            expected[tuple(path(tree, node))] += float(tree.ce_weight[node])
        assert trained == expected


def test_paths_cover_wanted_nodes_and_share_their_beginnings():
    for seed in range(50):
        rng = random.Random(seed)
        tree = random_tree(rng, 60, 50)
        wanted = np.array([rng.random() < 0.2 for _ in range(60)])
        seen: set[int] = set()
        for nodes, shared in paths(tree, wanted):
            assert seen.issuperset(nodes[:shared]) and not seen.intersection(nodes[shared:])
            assert [-1, *nodes[:-1]] == tree.parent[nodes].tolist()
            seen.update(nodes.tolist())
        assert seen.issuperset(np.flatnonzero(wanted))


@pytest.mark.parametrize("history", [None, 2])
@pytest.mark.parametrize("thinking", MODES)
def test_labels_mask_all_but_what_is_learned(thinking, history):
    """Special tokens and thoughts included: each target stands in one sequence, after its state."""
    renderer = Renderer(family("qwen3"), thinking)
    turns = thoughtful(renderer)
    episode = make_episode(turns, metadata={"history": history})
    targets = [Target(n, None) for n in range(5)] + [Target(4, "four")]
    rows = list(
        token_sequences(example_trees([TrainingExample(episode, tuple(targets))], renderer))
    )
    learned = [
        tuple(token for token, label in zip(row.input_ids, row.labels, strict=True) if label >= 0)
        for row in rows
    ]
    replies = [renderer.reply(turn) for turn in turns]
    sampled = [reply.token_ids[: len(reply.token_ids) - reply.unsampled] for reply in replies]
    everything = sum(learned, ())
    for ids in [*sampled, renderer.label("four").token_ids]:
        assert any(everything[n : n + len(ids)] == ids for n in range(len(everything)))
    assert len(everything) == sum(map(len, sampled)) + len(renderer.label("four").token_ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,thinking", [("tiny", "kept"), *(("qwen3", thinking) for thinking in MODES)]
)
def test_trl_has_the_loss_and_the_gradient_of_our_trainer(tmp_path, tokenizer, name, thinking):
    """The exported rows through TRL's SFTTrainer, in float32, on the tokens that ours learns."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    tokens = tokenizer if name == "tiny" else family(name)
    renderer = Renderer(tokens, thinking)
    examples = dagger_examples(random.Random(3), renderer, 6)
    thoughts = make_episode(thoughtful(renderer), "thoughts")
    examples.append(TrainingExample(thoughts, tuple(Target(n, None) for n in range(5))))
    trees = list(example_trees(examples, renderer))
    # What two labels of one state begin with has weight 2, and SFTTrainer knows no weights
    assert any(tree.ce_weight.max() == 2 for tree in trees)
    trees = [replace(t, ce_weight=(t.ce_weight != 0).astype(np.float32)) for t in trees]
    rows = list(token_sequences(trees))
    assert len(rows) > len(trees)  # some trees have branches

    model = tiny_model(len(tokens))
    learner = Learner(model, tokens, TrainingConfig())
    loss = learner.loss(trees).loss / denominator(trees)
    loss.backward()
    wanted = grads(model)

    data = datasets.Dataset.from_list(
        [{"input_ids": r.input_ids, "labels": r.labels} for r in rows]
    )
    config = trl.SFTConfig(
        str(tmp_path), max_length=None, per_device_train_batch_size=len(rows), bf16=False,
        gradient_checkpointing=False, report_to=[], use_cpu=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        tiny_model(len(tokens)), config, train_dataset=data, processing_class=tokens
    )
    (batch,) = trainer.get_train_dataloader()
    learned = sorted(ids[ids != IGNORED].tolist() for ids in batch["labels"])
    assert learned == sorted([n for n in row.labels if n != IGNORED] for row in rows)
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    assert theirs.item() == pytest.approx(loss.item(), abs=1e-5)
    assert_close(grads(trainer.model), wanted)


def test_conversations_train_each_message_once(tokenizer):
    turns = [Turn(f"see {n}", "student", f"do {n}") for n in range(4)]
    targets = (Target(0, None), Target(1, "other"), Target(2, None, 0.5), Target(3, "last"))
    example = TrainingExample(make_episode(turns), targets)
    rows = [row.messages for row in conversations([example])]
    trained = [[(m["content"], m["weight"]) for m in row if m.get("trainable")] for row in rows]
    assert trained == [[("other", 1.0)], [("last", 1.0)], [("do 0", 1.0), ("do 2", 0.5)]]
    assert [m["content"] for m in rows[0]] == ["You fix bugs.", "see 0", "do 0", "see 1", "other"]
    assert [m["role"] for m in rows[2]] == ["system", *["user", "assistant"] * 3]
    assert not any("trainable" in m for row in rows for m in row if m["role"] != "assistant")


@pytest.mark.parametrize("history", [None, 2])
@pytest.mark.parametrize("thinking", MODES)
def test_conversations_are_what_was_seen(thinking, history):
    """Through the model's own template: the context of a trained message is its state."""
    renderer = Renderer(family("qwen3"), thinking)
    turns = [replace(turn, token_ids=()) for turn in thoughtful(renderer)]
    episode = make_episode(turns, metadata={"history": history})
    example = TrainingExample(episode, tuple(Target(n, None) for n in range(5)))
    found = set()
    options = {"enable_thinking": False} if thinking == "empty" else {}
    for row in conversations([example], thinking):
        for at, message in enumerate(row.messages):
            if message.get("trainable"):
                state = renderer.tokenizer.apply_chat_template(
                    row.messages[:at], add_generation_prompt=True, return_dict=False, **options
                )
                found.add((renderer.decode(state), message["content"]))
    trees = example_trees([example], renderer)
    for text in (renderer.decode(row.input_ids) for row in token_sequences(trees)):
        assert any(text.startswith(state) for state, _ in found)
    assert {content for _, content in found} == {turn.text for turn in turns}


@pytest.mark.parametrize(
    "weights,loss",
    [({"pg_weight": 1.0}, "a policy gradient"), ({"kl_weight": 1.0}, "a divergence")],
)
def test_other_losses_than_cross_entropy_are_refused(weights, loss):
    episode = make_episode([Turn("see", "student", "do")])
    target = Target(0, None, weight=0.0, **weights)
    with pytest.raises(ValueError, match=f"e, turn 0: it is trained with {loss}"):
        check_exportable([TrainingExample(episode, (target,))])
    check_exportable([TrainingExample(episode, (Target(0, None),))])
