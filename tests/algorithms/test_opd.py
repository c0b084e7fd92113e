"""On-policy distillation ends at the teacher, however many updates a round's samples serve for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from algorithms.base import Round
from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import Predicted, weighted_sums
from algorithms.objective import Objective
from algorithms.opd import OPD
from tests.algorithms.conftest import tiny_model
from tests.algorithms.sampled import scored
from tests.algorithms.test_supported import played

TOKENS = 8
FROZEN = OPD(recompute=False).objective


def categorical(seed: int = 0):
    """A student and a teacher over eight tokens, well apart."""
    torch.manual_seed(seed)
    student, teacher = 2 * torch.randn(2, TOKENS, dtype=torch.float64)
    return student, teacher.log_softmax(-1)


def reverse(theta, teacher) -> float:
    p = theta.detach().log_softmax(-1)
    return float((p.exp() * (p - teacher)).sum())


def loss_of(theta, start, teacher, objective: Objective):
    """All tokens at once, each as often as the student who acted draws it."""
    behavior, found = start.log_softmax(-1), theta.log_softmax(-1)
    zeros, none = torch.zeros(TOKENS, dtype=theta.dtype), torch.empty(TOKENS, 0)
    streams = {
        "ce_weight": zeros,
        "kl_weight": zeros,
        "pg_weight": behavior.exp(),
        "advantage": teacher - behavior,
        "behavior": behavior,
        "score": teacher,
    }
    packed = SimpleNamespace(streams=streams, sequence=torch.arange(TOKENS))
    return weighted_sums(objective, Predicted(found, zeros, none, none, none), packed)


def trained(objective: Objective, updates: int, seed: int = 0) -> float:
    """The reverse KL that is left after so many updates of one round."""
    start, teacher = categorical(seed)
    theta = start.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=0.05, betas=(0.9, 0.95))
    for _ in range(updates):
        adam.zero_grad()
        loss_of(theta, start, teacher, objective).loss.backward()
        adam.step()
    return reverse(theta, teacher)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_fixed_point_is_the_teacher_and_of_a_frozen_advantage_it_is_not(seed) -> None:
    before = reverse(*categorical(seed))
    assert before > 0.2
    ours = [trained(OPD().objective, n, seed) for n in (96, 300, 1000)]
    assert ours[0] < before / 5 and ours[1] < 0.02 and ours[2] < 1e-4
    assert trained(FROZEN, 1000, seed) > 0.3, "else the test would see no difference"


def test_every_update_has_the_gradient_of_the_reverse_kl() -> None:
    start, teacher = categorical()
    torch.manual_seed(5)
    for far in (0.0, 0.1, 2.0):
        theta = (start + far * torch.randn(TOKENS, dtype=torch.float64)).requires_grad_()
        p = theta.log_softmax(-1)
        (exact,) = torch.autograd.grad((p.exp() * (p - teacher)).sum(), theta)
        for truncation in (None, 2.0):
            objective = OPD(truncation=truncation).objective
            (ours,) = torch.autograd.grad(loss_of(theta, start, teacher, objective).loss, theta)
            assert torch.allclose(ours, exact, atol=1e-9)
        (frozen,) = torch.autograd.grad(loss_of(theta, start, teacher, FROZEN).loss, theta)
        assert torch.allclose(frozen, exact, atol=1e-9) == (far == 0)


def test_the_divergence_that_is_logged_is_the_reverse_kl_of_the_student_as_it_is() -> None:
    start, teacher = categorical()
    torch.manual_seed(5)
    for far in (0.0, 1.0):
        theta = start + far * torch.randn(TOKENS, dtype=torch.float64)
        estimate = loss_of(theta, start, teacher, OPD().objective).divergence
        assert estimate == pytest.approx(reverse(theta, teacher), rel=1e-6)
    at_teacher = loss_of(teacher, start, teacher, OPD().objective)
    assert at_teacher.divergence == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_a_model_comes_closer_to_its_teacher_at_every_epoch(tokenizer) -> None:
    """Through trees, records of a sampler and answers of a scorer; what is logged says so."""
    size = len(tokenizer)
    student, teacher = tiny_model(size), tiny_model(size, 0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    renderer, episodes = played(student, tokenizer, 2, top_p=1.0)
    scores = [s for one in scored(teacher, tokenizer, episodes) for s in one]
    method = OPD()
    examples = list(method.examples([Round(1, episodes, [], scores)]))
    trees = list(example_trees(examples, renderer))
    config = TrainingConfig(lr=3e-4, batch_size=3, epochs=40, warmup_steps=0)
    report = Learner(student, None, config, method.objective).train(trees)
    assert len(report.divergence) == 40 and report.clipped[-1] == 0
    assert report.divergence[0] > 0.01
    assert report.divergence[-1] < report.divergence[0] / 3
    assert min(report.divergence) >= 0


def test_the_first_advantage_is_kept_beside_the_score(tokenizer) -> None:
    model = tiny_model(len(tokenizer))
    renderer, (item, *_) = played(model, tokenizer, 1, top_p=1.0)
    (scores,) = scored(tiny_model(len(tokenizer), 7), tokenizer, [item])
    (example,) = OPD().examples([Round(1, [item], [], scores)])
    (target,) = example.targets
    (tree,) = example_trees([example], renderer)
    here = tree.pg_weight != 0
    count = len(item.turns[0].token_ids)
    assert tree.score[here] == pytest.approx(scores[0].logprobs[:count], abs=1e-5)
    expected = [s - t for s, t in zip(scores[0].logprobs, item.turns[0].logprobs, strict=False)]
    assert list(target.advantage) == pytest.approx(expected[:count])
    short = replace(scores[0], logprobs=scores[0].logprobs[:-1])
    (example,) = OPD().examples([Round(1, [item], [], [short])])
    with pytest.raises(ValueError, match="scores of"):
        list(example_trees([example], renderer))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_other_estimators_are_losses_on_the_students_present_log_probs(estimator) -> None:
    objective = OPD(estimator=estimator, temperature=0.7).objective
    assert (objective.advantage, objective.temperature) == ("given", 0.7)
    assert objective.divergence == estimator
