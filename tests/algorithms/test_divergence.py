"""Divergences against TRL and closed forms, and their gradients against exact ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import (
    Predicted,
    denominator,
    jsd,
    per_token_divergence,
    weighted_sums,
)
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import pack
from algorithms.objective import Objective
from tests.algorithms.conftest import tiny_model
from tests.algorithms.sampled import assert_close, chain, episode, grads, scored, taught
from tests.algorithms.test_tree import random_tree


@pytest.fixture(scope="module")
def setting(tokenizer):
    rng, renderer = random.Random(3), Renderer(tokenizer)
    episodes = [episode(rng, renderer.end_id, f"e{n}", 1 + n % 2) for n in range(3)]
    return renderer, episodes


def ours(setting, tokenizer, top_k, objective):
    """Loss per token and its gradient, from the scorer's answers to the sums of the tree."""
    renderer, episodes = setting
    student = tiny_model(len(tokenizer))
    scores = scored(tiny_model(len(tokenizer), 7), tokenizer, episodes, top_k)
    examples = [taught(e, s, kl_weight=1.0) for e, s in zip(episodes, scores, strict=True)]
    trees = list(example_trees(examples, renderer))
    loss = Learner(student, None, TrainingConfig(), objective).loss(trees).loss
    loss = loss / denominator(trees, objective)
    loss.backward()
    return loss.item(), grads(student)


def logits_of_sampled(model, renderer, episodes):
    for item in episodes:
        ids, sampled, _ = chain(renderer, item)
        here = torch.tensor(sampled[1:]).nonzero()[:, 0]
        yield model(torch.tensor([ids])).logits[0, here], torch.tensor(ids)[here + 1]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_over_vocabulary_equals_trl(setting, tokenizer, beta):
    from trl.experimental.gkd import GKDTrainer

    student, teacher = tiny_model(len(tokenizer)), tiny_model(len(tokenizer), 7)
    parts = [
        torch.cat([logits for logits, _ in logits_of_sampled(model, *setting)])
        for model in (student, teacher)
    ]
    expected = GKDTrainer.generalized_jsd_loss(parts[0], parts[1].detach(), beta=beta)
    expected.backward()
    wanted = grads(student)
    objective = Objective(divergence="jsd", jsd_beta=beta)
    loss, got = ours(setting, tokenizer, len(tokenizer), objective)
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert_close(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_top_k_jsd_is_growing_lower_bound(setting, tokenizer, beta):
    objective = Objective(divergence="jsd", jsd_beta=beta)
    sizes = [1, 2, 5, 20, 60, len(tokenizer)]
    found = [ours(setting, tokenizer, size, objective)[0] for size in sizes]
    assert found[0] > 0 and all(a < b + 1e-6 for a, b in pairwise(found))
    assert found[0] < found[-1] / 2, "the test would not see a bound that is none"


CLOSED = {
    "k1": lambda r: -r,
    "k2": lambda r: r**2 / 2,
    "k3": lambda r: r.exp() - r - 1,
}


@pytest.mark.parametrize("kind", CLOSED)
def test_estimators_equal_closed_forms(setting, tokenizer, kind):
    student, each = tiny_model(len(tokenizer)), []
    teacher = tiny_model(len(tokenizer), 7)
    pairs = (logits_of_sampled(model, *setting) for model in (student, teacher))
    for (logits, ids), (teacher_logits, _) in zip(*pairs, strict=True):
        rows = torch.arange(len(ids))
        r = teacher_logits.detach().log_softmax(-1)[rows, ids] - logits.log_softmax(-1)[rows, ids]
        each.append(CLOSED[kind](r))
    expected = torch.cat(each).mean()
    expected.backward()
    loss, got = ours(setting, tokenizer, 0, Objective(divergence=kind))
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert_close(got, grads(student))


def test_on_policy_gradients_of_estimators():
    """Every token once, weighted by its probability: an expectation without sampling."""
    torch.manual_seed(0)
    theta = torch.randn(9, dtype=torch.float64, requires_grad=True)
    p, q = theta.log_softmax(-1), torch.randn(9, dtype=torch.float64).log_softmax(-1)
    empty = torch.empty(9, 0)
    predicted = Predicted(p, torch.zeros(9), empty, empty, empty)
    streams = {"kl_weight": torch.ones(9), "score": q}

    def gradient(value):
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    def expected(kind):
        each = per_token_divergence(Objective(divergence=kind), predicted, streams)
        return gradient((p.exp().detach() * each).sum())

    reverse = gradient((p.exp() * (p - q)).sum())
    forward = gradient((q.exp() * (q - p)).sum())
    assert float((reverse - forward).abs().max()) > 0.1
    assert torch.allclose(expected("k2"), reverse, atol=1e-12)
    assert torch.allclose(expected("k3"), forward, atol=1e-12)
    assert torch.allclose(expected("k1"), torch.zeros_like(q), atol=1e-12)
    # as values, all three estimate the reverse KL
    value = (p.exp() * (p - q)).sum()
    for kind in ("k1", "k3"):
        each = per_token_divergence(Objective(divergence=kind), predicted, streams)
        assert torch.allclose((p.exp() * each).sum(), value)


def test_jsd_of_few_tokens_by_hand():
    teacher = torch.tensor([[0.5, 0.2, 0.0]]).log()  # the third is a filler
    student = torch.tensor([[0.1, 0.3, 0.4]]).log()
    p, q = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.1, 0.3, 0.6])

    def kl(a, b):
        return (a * (a / b).log()).sum()

    assert torch.allclose(jsd(student, teacher, 0.0), kl(p, q))
    assert torch.allclose(jsd(student, teacher, 1.0), kl(q, p))
    mix = 0.3 * p + 0.7 * q
    assert torch.allclose(jsd(student, teacher, 0.3), 0.3 * kl(p, mix) + 0.7 * kl(q, mix))
    assert jsd(teacher, teacher, 0.5).abs().max() < 1e-6


EXTREMES = [
    Objective(ratio=ratio, clip_low=clip, clip_high=clip, truncation=cut, divergence=kind)
    for ratio in ("token", "sequence")
    for clip in (None, 0.2)
    for cut in (None, 2.0)
    for kind in ("k1", "k2", "k3", "jsd")
] + [Objective(divergence="jsd", jsd_beta=beta) for beta in (0.0, 1.0)]
EXTREMES += [
    Objective(clip_low=clip, clip_high=clip, truncation=cut, advantage="log_ratio")
    for clip in (None, 0.2)
    for cut in (None, 2.0)
]


@pytest.mark.parametrize("objective", EXTREMES, ids=str)
def test_extreme_values_give_no_nan(objective):
    """Certain, impossible and absurd tokens, seen by a student, a sampler and a scorer."""
    rows, extremes = [], [0.0, -1e-9, -1.0, -90.0, -1e4, -torch.inf]
    logits = torch.tensor([[0.0, 1e4, -1e4, 5.0], [1e9, -1e9, 0, 1], [-torch.inf, 0, 1, 2]])
    for row in range(3):
        for token in range(4):
            rows += [(row, token, b, s) for b in extremes for s in extremes]
    size = len(rows)
    row, token = (torch.tensor(part) for part in list(zip(*rows, strict=True))[:2])
    keep = ~((row == 2) & (token == 0))  # what the student itself calls impossible has no weight
    theta = logits.clone().requires_grad_()
    logprobs = theta.log_softmax(-1)[row]
    top_ids = torch.arange(4).expand(size, 4)
    found = logprobs.gather(1, token[:, None])[:, 0]
    predicted = Predicted(found, token == 0, logprobs, top_ids, logprobs.detach())
    packed = pack([random_tree(random.Random(0), 5, 9)])
    behavior, score = (torch.tensor([r[n] for r in rows]) for n in (2, 3))
    packed.streams.update(
        ce_weight=keep.float(),
        pg_weight=keep.float(),
        advantage=torch.arange(size) % 3 - 1.0,
        behavior=behavior,
        kl_weight=keep.float(),
        score=score,
        top_logprobs=torch.stack([score, torch.full_like(score, -2.0), score, behavior], -1),
    )
    packed.streams["old"] = behavior.clamp(min=-1e4)
    packed = type(packed)(**{**vars(packed), "sequence": torch.arange(size) % 5})
    sums = weighted_sums(objective, predicted, packed)
    sums.loss.backward()
    assert sums.loss.isfinite() and theta.grad.isfinite().all()
