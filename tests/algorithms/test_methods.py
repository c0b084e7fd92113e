import pytest

from algorithms.base import Round, Target
from algorithms.dagger import DAgger
from algorithms.engine.examples import example_tree
from algorithms.engine.rendering import Renderer
from algorithms.schedules import Schedule
from algorithms.sft import SFT
from swe_gym_env.rollout.mixers import PerTurnBeta, TeacherOnly
from swe_gym_env.types import Annotation, Outcome, Turn
from tests.algorithms.conftest import make_episode

LINEAR = Schedule("linear", rounds=3)


def teacher_round(index=0):
    turns = [Turn(f"see {n}", "teacher", f"do {n}") for n in range(3)]
    episodes = [make_episode(turns, f"e{n}") for n in range(2)]
    labels = [
        Annotation(e.episode_id, n, "expert", turn.text, executed=True)
        for e in episodes
        for n, turn in enumerate(turns)
    ]
    return Round(index, episodes, labels)


def mixed_round(index=1):
    turns = [
        Turn("see 0", "student", "oops", None, (1, 2)),
        Turn("see 1", "teacher", "fix"),
        Turn("see 2", "student", "same"),
        Turn("see 3", "student", "lost"),
    ]
    labels = [
        Annotation("m", 0, "expert", "right"),
        Annotation("m", 1, "expert", "fix", executed=True),
        Annotation("m", 2, "expert", "same"),
        Annotation("m", 3, "expert", None, error="no answer"),
    ]
    return Round(index, [make_episode(turns, "m", stop_reason="max_turns")], labels)


def test_dagger_of_a_teacher_is_sft(tokenizer):
    renderer, data = Renderer(tokenizer), [teacher_round()]
    ours = [example_tree(example, renderer) for example in DAgger(LINEAR).examples(data)]
    sft = [example_tree(example, renderer) for example in SFT().examples(data)]
    assert len(ours) == len(sft) == 2
    for one, two in zip(ours, sft, strict=True):
        for field in ("token_ids", "parent", "ce_weight", "segment"):
            assert getattr(one, field).tolist() == getattr(two, field).tolist()
        assert one.ce_weight.sum() == 3 * (len("do 0") + 1)


def test_who_acts_and_who_is_asked():
    dagger = DAgger(LINEAR)
    assert [dagger.collect(n).mixer for n in (1, 2, 3)] == [
        PerTurnBeta(1.0),
        PerTurnBeta(0.5),
        PerTurnBeta(0.0),
    ]
    assert dagger.collect(1).annotate == "label"
    assert SFT().collect(5).mixer == TeacherOnly() and SFT().collect(5).annotate == "nothing"


def test_dagger_learns_labels_and_leaves_the_history_alone(tokenizer):
    (example,) = DAgger(LINEAR).examples([teacher_round(), mixed_round()])
    assert example.targets == (Target(0, "right"), Target(1, None), Target(2, "same"))
    renderer = Renderer(tokenizer)
    tree = example_tree(example, renderer)
    learned = renderer.decode(tree.token_ids[tree.ce_weight != 0])
    assert learned == "right<|im_end|>fix<|im_end|>same<|im_end|>"
    # the state of turn 1 holds what the student sampled, not the label
    node, ids = int(next(iter((tree.segment == 1).nonzero()[0]))), []
    while node >= 0:
        ids.append(int(tree.token_ids[node]))
        node = int(tree.parent[node])
    assert renderer.decode(ids[::-1]).endswith("assistant\n12<|im_end|>\n")


def test_aggregation_and_filters():
    data = [teacher_round(), mixed_round()]
    assert len(list(DAgger(LINEAR, aggregation="union").examples(data))) == 3
    # iteration 0 was not annotated: the teacher's own turns are still labels
    bare = Round(0, data[0].episodes, [])
    assert all(len(x.targets) == 3 for x in DAgger(LINEAR).examples([bare]))
    assert list(DAgger(LINEAR, keep="finished").examples(data)) == []
    fault = make_episode([Turn("s", "teacher", "t")], outcome=Outcome("infra_error", mask=True))
    failed = make_episode([Turn("s", "teacher", "t")], outcome=Outcome("unresolved"))
    last = Round(0, [fault, failed], [])
    assert [x.episode for x in SFT().examples([last])] == [failed]
    assert list(SFT(keep="resolved").examples([last])) == []
    for method in (SFT, lambda **options: DAgger(LINEAR, **options)):
        with pytest.raises(ValueError, match="latest, union"):
            method(aggregation="last")
        with pytest.raises(ValueError, match="all, finished, resolved"):
            method(keep="good")
