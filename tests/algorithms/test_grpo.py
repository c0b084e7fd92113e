"""GRPO and distillation: groups, advantages, weights, on hand-made rounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.base import Round, Scoring
from algorithms.engine.examples import example_trees, tree_of
from algorithms.engine.losses import denominator
from algorithms.engine.rendering import Renderer
from algorithms.gkd import GKD
from algorithms.grpo import GRPO, advantages
from algorithms.opd import OPD
from swe_gym_env.rollout.mixers import PerEpisodeBeta
from swe_gym_env.types import Outcome, Scores, Turn
from tests.algorithms.conftest import make_episode


def tried(task, repeat, reward, tokens=3, **fields):
    ids = (*range(1, tokens), 100)
    turn = Turn(f"bug {task}", "student", "x", None, ids, tuple(-0.1 * n for n in ids))
    outcome = Outcome("resolved" if reward else "unresolved", reward)
    name = f"{task}/{repeat}"
    return make_episode(
        [turn], name, instance_id=task, repeat=repeat, **{"outcome": outcome, **fields}
    )


def group(task="a", rewards=(1.0, 0.0, 0.0, 0.0)):
    return [tried(task, n, reward, 2 + n) for n, reward in enumerate(rewards)]


def test_advantages_against_torch():
    for rewards in ([1.0, 0.0, 0.0], [0.2, 0.9, 0.4, 0.4], [1.0, 1.0]):
        r = torch.tensor(rewards, dtype=torch.float64)
        assert advantages(rewards, "mean") == pytest.approx((r - r.mean()).tolist())
        scaled = (r - r.mean()) / (r.std() + 1e-4)
        assert advantages(rewards, "std") == pytest.approx(scaled.tolist())
        others = [(r.sum() - one) / (len(r) - 1) for one in r]
        left = [float(one - mean) for one, mean in zip(r, others, strict=True)]
        assert advantages(rewards, "leave_one_out") == pytest.approx(left)


def test_groups_share_a_prompt_and_equal_ones_teach_nothing(tokenizer):
    method = GRPO(repeats=4)
    data = [*group("a"), *group("b", (1.0,) * 4), *group("c", (0.0, 1.0, 1.0, 1.0))]
    broken = replace(data[3], outcome=Outcome("infra_error", mask=True))
    examples = list(method.examples([Round(1, [*data[:3], broken, *data[4:]], [])]))
    assert [x.group for x in examples] == ["a/0"] * 3 + ["c/0"] * 4
    assert examples[0].targets[0].advantage == pytest.approx(2 / 3)  # the broken one counts nowhere
    one, _ = example_trees(examples, Renderer(tokenizer))
    prompt = len(Renderer(tokenizer).opening("You fix bugs.", "bug a"))
    assert len(one) == prompt + 2 + 3 + 4  # the prompt once, the tries of 2, 3 and 4 tokens
    assert sorted(set(one.sequence[one.pg_weight != 0])) == [0, 1, 2]
    apart = list(example_trees(examples, Renderer(tokenizer), len(one)))  # the other is longer
    assert [tree.group for tree in apart] == [""] + ["c/0"] * 4
    kept = GRPO(repeats=4, zero_variance="keep").examples([Round(1, data, [])])
    assert len(list(kept)) == 12


@pytest.mark.parametrize(
    ("aggregation", "whole"), [("token", 2 + 3 + 4 + 5), ("sequence", 4), ("constant", 4)]
)
def test_aggregations_are_weights_and_a_denominator(tokenizer, aggregation, whole):
    method = GRPO(repeats=4, aggregation=aggregation, constant=10)
    trees = list(example_trees(method.examples([Round(1, group(), [])]), Renderer(tokenizer)))
    assert denominator(trees, method.objective) == pytest.approx(whole)
    weights = trees[0].pg_weight[trees[0].pg_weight != 0]
    each = {"token": 14, "sequence": 4, "constant": 1.4}[aggregation]
    assert weights.sum() == pytest.approx(each)


def test_truncated_episodes_count_in_the_mean_only():
    data = group()
    data[3] = replace(data[3], stop_reason="max_turns")
    examples = list(GRPO(repeats=4, truncated="mask").examples([Round(1, data, [])]))
    assert [x.episode.repeat for x in examples] == [0, 1, 2]
    assert examples[0].targets[0].advantage == pytest.approx(0.75)


def test_dynamic_sampling_plays_on_until_enough_groups_differ():
    method = GRPO(repeats=4, most_tasks=3)
    useless, useful = group("b", (0.0,) * 4), group("a")
    assert method.extra_tasks(2, [*useless, *useful]) == 1
    assert method.extra_tasks(1, useful) == 0
    assert method.extra_tasks(1, [*useless, *group("c", (1.0,) * 4)]) == 1
    assert method.extra_tasks(1, [e for task in "bcde" for e in group(task, (0.0,) * 4)]) == 0
    assert GRPO(repeats=4).extra_tasks(2, useless) == 0
    broken = [replace(e, outcome=Outcome("infra_error", mask=True)) for e in useless]
    lost = [replace(e, instance_id=task) for task in "xyz" for e in broken]
    assert method.extra_tasks(2, [*useful, *useless, *lost]) == 0  # they were played, too


def test_grpo_penalizes_leaving_the_start_only_where_asked():
    assert GRPO().scoring is None
    method = GRPO(repeats=4, kl=0.01)
    assert method.scoring == Scoring("start") and method.objective.coefficient == 0.01
    data = group()
    scores = [Scores(e.episode_id, 0, "start", (-1.0,) * (2 + n)) for n, e in enumerate(data)]
    (first, *_) = method.examples([Round(1, data, [], scores)])
    assert first.targets[0].kl_weight == 1 and first.targets[0].scores == scores[0]


def test_a_turn_without_its_log_probs_is_refused(tokenizer):
    data = group()
    turn = replace(data[0].turns[0], logprobs=())
    data[0] = replace(data[0], turns=(turn,))
    with pytest.raises(ValueError, match="log-prob of every sampled token"):
        list(example_trees(GRPO(repeats=4).examples([Round(1, data, [])]), Renderer(tokenizer)))


def test_opd_weighs_each_token_by_what_the_teacher_thinks_of_it(tokenizer):
    episode = tried("a", 0, 0.0, 3)
    scores = [Scores("a/0", 0, "teacher", (-0.5, -0.5, -0.5))]
    data = [Round(1, [episode, tried("b", 0, 0.0)], [], scores)]
    method = OPD()
    assert method.scoring == Scoring("teacher") and method.objective.clip_low is None
    tree = tree_of(list(method.examples(data))[:1], Renderer(tokenizer))
    carried = tree.pg_weight != 0
    wanted = [-0.5 - logprob for logprob in episode.turns[0].logprobs]
    assert np.allclose(tree.advantage[carried], wanted) and not tree.ce_weight.any()
    assert list(method.examples(data))[1].targets == ()  # not scored
    tree = tree_of(list(OPD("k2").examples(data))[:1], Renderer(tokenizer))
    assert tree.kl_weight.sum() == 3 and not tree.pg_weight.any()
    with pytest.raises(ValueError, match="advantage, k1, k2, k3"):
        OPD("k4")


def test_gkd_keeps_the_teachers_most_likely_tokens(tokenizer):
    method = GKD(student_share=0.25, top_k=2)
    assert method.collect(1).mixer == PerEpisodeBeta(0.75)
    assert method.scoring == Scoring("teacher", top_k=2)
    top = ((5, 6),) * 3, ((-0.1, -3.0),) * 3
    scores = [Scores("a/0", 0, "teacher", (-0.5,) * 3, *top)]
    examples = method.examples([Round(1, [tried("a", 0, 0.0, 3)], [], scores)])
    (tree,) = example_trees(examples, Renderer(tokenizer))
    assert tree.top_ids[tree.kl_weight != 0].tolist() == [[5, 6]] * 3
    assert np.isneginf(tree.top_logprobs[tree.kl_weight == 0]).all()
    with pytest.raises(ValueError, match="jsd_beta"):
        GKD(jsd_beta=1.5)
