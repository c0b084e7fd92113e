"""What must be equal whatever the numbers are: order, packing, sharing, absence, special cases."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from algorithms.base import Target
from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import Predicted, denominator, weighted_sums
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import pack
from algorithms.objective import Objective
from tests.algorithms.conftest import tiny_model, words
from tests.algorithms.sampled import (
    assert_close,
    behaved,
    episode,
    grads,
    plain_logprobs,
    scored,
    taught,
)

STREAMS = {
    "ce": {"weight": 0.7},
    "pg": {"pg_weight": 1.0},
    "kl": {"kl_weight": 0.5},
    "all": {"weight": 0.3, "pg_weight": 1.0, "kl_weight": 0.5},
}
OBJECTIVES = {
    "tokens": Objective(),
    "sequences": Objective("sequence", 0.003, 0.004, denominator="sequences"),
    "truncated": Objective(truncation=1.5, divergence="jsd", denominator="sequences"),
}
both = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
streams = pytest.mark.parametrize("weights", STREAMS.values(), ids=STREAMS)


@pytest.fixture(scope="module")
def setting(tokenizer):
    return eight(tokenizer)


def eight(tokenizer):
    """Eight episodes, four to a prompt, of one to three turns, with a scorer's answers."""
    rng, renderer = random.Random(0), Renderer(tokenizer)
    episodes = [episode(rng, renderer.end_id, f"e{n}", 1 + n % 3) for n in range(8)]
    for n, item in enumerate(episodes):
        first = replace(item.turns[0], observation=episodes[n // 4].turns[0].observation)
        episodes[n] = replace(item, turns=(first, *item.turns[1:]))
    output = [
        row.detach() for row in plain_logprobs(tiny_model(len(tokenizer)), renderer, episodes)
    ]
    torch.manual_seed(0)
    episodes = behaved(episodes, [row + 0.3 * torch.randn_like(row) for row in output])
    scores = scored(tiny_model(len(tokenizer), 7), tokenizer, episodes, 5)
    return SimpleNamespace(
        renderer=renderer, episodes=episodes, scores=scores, output=output, size=len(tokenizer)
    )


def examples(s, group=False, **weights):
    return [
        taught(item, scores, f"g{n // 4}" if group else "", advantage=[1.5, -0.5][n % 2], **weights)
        for n, (item, scores) in enumerate(zip(s.episodes, s.scores, strict=True))
    ]


def computed(s, items, objective=Objective(), rows=None):  # noqa: B008
    """Loss and gradient of one optimizer batch; ``rows`` cuts its trees into micro-batches."""
    model = tiny_model(s.size)
    trees = list(example_trees(items, s.renderer))
    learner = Learner(model, None, TrainingConfig(), objective)
    if objective.truncation is not None:
        learner._compute_old_logprobs(trees)
    whole, loss = denominator(trees, objective), 0.0
    for row in rows(trees) if rows else [trees]:
        part = learner.loss(row).loss / whole
        part.backward()
        loss += part.item()
    return loss, grads(model)


def assert_same(one, two):
    assert one[0] == pytest.approx(two[0], rel=2e-6, abs=2e-6)
    assert_close(one[1], two[1])


@pytest.mark.sampled(1)
@both
@streams
def test_packed_is_one_by_one_is_grouped(setting, objective, weights):
    packed = computed(setting, examples(setting, **weights), objective)
    assert abs(packed[0]) > 1e-3
    alone = computed(
        setting, examples(setting, **weights), objective, lambda trees: [[t] for t in trees]
    )
    assert_same(alone, packed)
    backwards = computed(setting, examples(setting, **weights)[::-1], objective)
    assert_same(backwards, packed)
    grouped = examples(setting, group=True, **weights)
    assert len(list(example_trees(grouped, setting.renderer))) == 2
    assert_same(computed(setting, grouped, objective), packed)


@pytest.mark.sampled(3)
@both
@streams
def test_packed_is_padded(setting, objective, weights):
    """The same sums over log-probs of a plain, padded batch."""
    s, model = setting, tiny_model(setting.size)
    trees = list(example_trees(examples(s, **weights), s.renderer))
    ids = torch.zeros(len(trees), max(map(len, trees)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tree in enumerate(trees):
        assert tree.parent.tolist() == list(range(-1, len(tree) - 1))
        ids[row, : len(tree)] = torch.from_numpy(tree.token_ids)
        mask[row, : len(tree)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits
    places = [(row, int(node) - 1) for row, tree in enumerate(trees) for node in tree.loss_nodes]
    logprobs = torch.stack([logits[place] for place in places]).log_softmax(-1)
    packed = pack(trees)
    top = logprobs.gather(1, packed.streams["top_ids"])
    found = logprobs.gather(1, packed.target[:, None])[:, 0]
    if objective.truncation is not None:
        packed.streams["old"] = found.detach()
    none = torch.empty(len(found), 0)
    sums = weighted_sums(objective, Predicted(found, found > 0, top, none, none), packed)
    (sums.loss / denominator(trees, objective)).backward()
    wanted = (sums.loss.item() / denominator(trees, objective), grads(model))
    assert_same(computed(s, examples(s, **weights), objective), wanted)


@pytest.mark.sampled(1)
@both
@streams
def test_eight_micro_batches_of_one_are_one_of_eight(setting, objective, weights):
    def after(budget):
        model = tiny_model(setting.size)
        trees = list(example_trees(examples(setting, **weights), setting.renderer))
        config = TrainingConfig(lr=1e-3, micro_batch_tokens=budget, warmup_steps=0, epochs=2)
        report = Learner(model, None, config, objective).train(trees)
        return model.state_dict(), report

    (one, reported), (eight, output) = after(100_000), after(1)
    for name in ("loss", "grad_norm", "clipped", "divergence", "accuracy"):
        assert getattr(output, name) == pytest.approx(
            getattr(reported, name), rel=1e-4, nan_ok=True
        )
    for name, weight in one.items():
        # Adam's first steps take the sign of a gradient, be it no more than rounding
        far = (eight[name] - weight).abs() > 1e-3 / 100
        assert far.float().mean() < 1e-3, name


def test_at_ratio_one_ppo_is_reinforce(setting):
    s = setting
    on_policy = behaved(s.episodes, s.output)
    ours = computed(s, [taught(e, pg_weight=1.0, advantage=n - 3) for n, e in enumerate(on_policy)])
    model = tiny_model(s.size)
    rows = plain_logprobs(model, s.renderer, s.episodes)
    reinforce = -sum((n - 3) * row.sum() for n, row in enumerate(rows))
    (reinforce / sum(map(len, rows))).backward()
    assert_close(ours[1], grads(model))


@both
def test_a_group_that_did_equally_well_teaches_nothing(setting, objective):
    equal = [taught(e, pg_weight=1.0, advantage=0.0) for e in setting.episodes]
    loss, gradient = computed(setting, equal, objective)
    assert loss == 0 and all(not part.any() for part in gradient.values())


@pytest.mark.sampled(3)
@both
@streams
def test_a_masked_episode_is_an_absent_one(setting, objective, weights):
    for group in (False, True):
        items = examples(setting, group=group, **weights)
        masked = [
            replace(item, targets=tuple(replace(t, **dict.fromkeys(weights, 0.0)) for t in targets))
            if n in (2, 5)
            else item
            for n, (item, targets) in enumerate((item, item.targets) for item in items)
        ]
        absent = [item for n, item in enumerate(items) if n not in (2, 5)]
        assert_same(computed(setting, masked, objective), computed(setting, absent, objective))


def test_an_advantage_per_token_is_that_of_its_token(setting):
    s, (item, *_) = setting, setting.episodes
    count = len(item.turns[0].token_ids)
    item = replace(item, turns=item.turns[:1])
    parts = []
    for n in range(count):
        one = [0.0] * count
        one[n] = n + 1.0
        parts.append(computed(s, [taught(item, pg_weight=1.0, advantage=one)])[1])
    whole = [n + 1.0 for n in range(count)]
    _, gradient = computed(s, [taught(item, pg_weight=1.0, advantage=whole)])
    assert_close({name: sum(part[name] for part in parts) for name in gradient}, gradient)


def test_equal_labels_of_a_group_still_count_as_two_sequences(setting):
    """Where tokens merge, weights add up; what is counted per episode must not merge."""
    rng = random.Random(1)
    label = words(rng)
    items = [
        replace(item, targets=(Target(0, label, weight=1.0),))
        for item in examples(setting, group=True)[:4]
    ]
    separate = [replace(item, group="") for item in items]
    for objective in OBJECTIVES.values():
        one = computed(setting, items, objective)
        assert_same(one, computed(setting, separate, objective))


def test_cross_entropy_is_torchs(setting):
    s, model = setting, tiny_model(setting.size)
    loss, gradient = computed(s, examples(s, weight=1.0))
    parts = []
    for item in s.episodes:
        for n, turn in enumerate(item.turns):
            prompt = s.renderer.prompt(item.system_prompt, item.turns[:n], turn.observation)
            logits = model(torch.tensor([[*prompt, *turn.token_ids]])).logits[0]
            own = torch.tensor(turn.token_ids)
            parts.append(F.cross_entropy(logits[len(prompt) - 1 : -1], own, reduction="none"))
    expected = torch.cat(parts).mean()
    expected.backward()
    assert_same((loss, gradient), (expected.item(), grads(model)))
