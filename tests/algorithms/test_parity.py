"""The policy gradient is TRL's in loss and gradient, through trees on our side and a padded batch
on theirs: the same tiny model, the same episodes, both sides of the clip."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.rendering import Renderer
from algorithms.objective import Objective
from tests.algorithms.conftest import tiny_model
from tests.algorithms.sampled import (
    assert_close,
    behaved,
    chain,
    episode,
    grads,
    plain_logprobs,
    scored,
    taught,
)

ADVANTAGES = [1.3, -0.7, 0.4, -1.1, 0.0, 2.0]
LONGEST = 40  # what Dr. GRPO divides by
CASES = list(
    product(
        ["grpo", "dapo", "bnpo", "dr_grpo"],
        ["token", "sequence"],
        [(0.2, 0.2), (0.2, 0.28), (0.05, 0.4), (0.003, 0.004)],
        [0.0, 0.05],  # the KL's coefficient
        [None, 1.1],  # truncation: low, so that it binds
    )
)
assert len(CASES) >= 100


@pytest.fixture(scope="module")
def setting(tokenizer):
    """Six episodes of one to three turns, sampled by a model that has moved since."""
    rng, renderer = random.Random(0), Renderer(tokenizer)
    moved, before = tiny_model(len(tokenizer)), tiny_model(len(tokenizer))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    episodes = [episode(rng, renderer.end_id, f"e{n}", 1 + n % 3) for n in range(6)]
    sampled = [row.detach() for row in plain_logprobs(before, renderer, episodes)]
    output = [row + rng.choice([-0.3, 0.3]) + 0.3 * torch.randn_like(row) for row in sampled]
    episodes = behaved(episodes, output)
    reference = scored(tiny_model(len(tokenizer), 7), tokenizer, episodes)
    return SimpleNamespace(
        renderer=renderer,
        episodes=episodes,
        before=before.state_dict(),
        moved=moved,
        sampled=sampled,
        output=output,
        reference=reference,
        ours=tiny_model(len(tokenizer)),
    )


def padded(rows, left=False, fill=0):
    width = max(map(len, rows))
    room = [[fill] * (width - len(row)) for row in rows]
    pairs = zip(rows, room, strict=True)
    return torch.tensor([s + list(r) if left else list(r) + s for r, s in pairs])


def onto(mask, rows):
    """Values of sampled tokens laid where ``mask`` is 1."""
    laid = torch.zeros(mask.shape)
    laid[mask.bool()] = torch.cat(list(rows))
    return laid


def their_loss(s, kind, ratio, clip, coefficient, truncation):
    chains = [chain(s.renderer, item) for item in s.episodes]
    prompts = [ids[:first] for ids, _, first in chains]
    ends = [ids[first:] for ids, _, first in chains]
    mask = padded([sampled[first:] for _, sampled, first in chains])
    old = onto(mask, s.output if truncation is None else s.sampled)
    inputs = {
        "prompt_ids": padded(prompts, left=True),
        "prompt_mask": padded([[1] * len(p) for p in prompts], left=True),
        "completion_ids": padded(ends),
        "completion_mask": padded([[1] * len(e) for e in ends]),
        "tool_mask": mask,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": old,
        "ref_per_token_logps": onto(
            mask,
            [
                torch.tensor(
                    [
                        v
                        for turn, c in zip(e.turns, scores, strict=True)
                        for v in c.logprobs[: len(turn.token_ids)]
                    ]
                )
                for e, scores in zip(s.episodes, s.reference, strict=True)
            ],
        ),
        "num_items_in_batch": mask.sum(),
    }
    if truncation is not None:
        inputs["importance_sampling_ratio"] = (
            (old - onto(mask, s.output)).exp().clamp(max=truncation)
        )

    def logps(model, ids, attention_mask, keep, **_):
        logits = model(input_ids=ids, attention_mask=attention_mask).logits[:, -keep - 1 : -1]
        found = logits.log_softmax(-1).gather(2, ids[:, -keep:, None])[..., 0]
        return found, torch.zeros_like(found), None

    from trl import GRPOTrainer

    metrics = defaultdict(lambda: defaultdict(list))
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=logps,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=ratio,
        beta=coefficient,
        loss_type=kind,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        use_vllm=truncation is not None,
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled=False,
        _metrics=metrics,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
    )
    loss = GRPOTrainer._compute_loss(stub, s.moved, inputs)
    return loss, metrics["train"]["clip_ratio/region_mean"][0]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("kind,ratio,clip,coefficient,truncation", CASES)
def test_policy_gradients_are_those_of_trl(setting, kind, ratio, clip, coefficient, truncation):
    s = setting
    expected, cut = their_loss(s, kind, ratio, clip, coefficient, truncation)
    expected.backward()
    wanted = grads(s.moved)

    examples = []
    for item, advantage, scores in zip(s.episodes, ADVANTAGES, s.reference, strict=True):
        length = sum(len(turn.token_ids) for turn in item.turns)
        each = {"grpo": 1 / length, "dr_grpo": 1 / LONGEST}.get(kind, 1.0)
        examples.append(
            taught(
                item,
                scores,
                pg_weight=each,
                advantage=advantage,
                kl_weight=each if coefficient else 0.0,
            )
        )
    objective = Objective(
        ratio,
        *clip,
        truncation,
        coefficient=coefficient,
        denominator="sequences" if kind in ("grpo", "dr_grpo") else "weights",
    )
    trees = list(example_trees(examples, s.renderer))
    s.ours.load_state_dict(s.before)
    learner = Learner(s.ours, None, TrainingConfig(), objective)
    if truncation is not None:
        learner._compute_old_logprobs(trees)
    s.ours.load_state_dict(s.moved.state_dict())
    sums = learner.loss(trees)
    loss = sums.loss / denominator(trees, objective)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_close(grads(s.ours), wanted)
    if kind in ("dapo", "bnpo") and ratio == "token":
        share = sums.clipped / sum(map(float, (t.pg_weight.sum() for t in trees)))
        assert share == pytest.approx(cut, abs=1e-6) and 0 < share < 1
