"""Methods with a teacher or a filter: who acts in each, and what exactly is learned."""

import pytest

from algorithms.aggrevate import AggreVaTe
from algorithms.base import Round, Scoring, Target
from algorithms.dagger import DAgger
from algorithms.engine.examples import example_tree
from algorithms.engine.rendering import Renderer
from algorithms.mixed import Mixed
from algorithms.oec import OEC, longest_repetition
from algorithms.rft import RFT
from algorithms.schedules import Schedule
from swe_gym_env.rollout.mixers import PerTurnBeta, SingleSwitch, StudentOnly, TeacherOnly
from swe_gym_env.types import Annotation, Outcome, Scores, ToolCall, Turn
from tests.algorithms.conftest import make_episode

LINEAR = Schedule("linear", rounds=3)


def switched(name="s", **fields):
    """Two turns of the student, two of the teacher."""
    turns = [
        Turn("see 0", "student", "oops", None, (1, 2, 100), (-1.0, -2.0, -0.5)),
        Turn("see 1", "student", "hm", None, (3, 100), (-1.5, -0.25)),
        Turn("see 2", "teacher", "fix"),
        Turn("see 3", "teacher", "done"),
    ]
    return make_episode(turns, name, **fields)


def learned(example, tokenizer) -> str:
    tree = example_tree(example, Renderer(tokenizer))
    return Renderer(tokenizer).decode(tree.token_ids[tree.ce_weight != 0])


UNRESOLVED = Outcome("unresolved")


def test_rft_learns_what_the_student_did_where_the_tests_pass(tokenizer):
    rft = RFT(repeats=2)
    plan = rft.collect(1)
    assert (plan.mixer, plan.repeats, plan.annotate) == (StudentOnly(), 2, "nothing")
    assert RFT(actor="teacher").collect(1).mixer == TeacherOnly()
    turns = [Turn("see", "student", "whatever", None, (1, 2, 100), (-1.0,) * 3)]
    good, bad = make_episode(turns, "good"), make_episode(turns, "bad", outcome=UNRESOLVED)
    (example,) = rft.examples([Round(1, [bad, good], [])])
    assert example.episode is good
    assert learned(example, tokenizer) == "12<|im_end|>"  # the ids, not the text


def test_aggrevate_learns_the_turns_after_the_switch(tokenizer):
    method = AggreVaTe(start=0, step=20, cap=100)
    assert [method.collect(n).mixer.most for n in range(1, 8)] == [0, 20, 40, 60, 80, 100, 100]
    (example,) = method.examples([Round(1, [switched(outcome=UNRESOLVED)], [])])
    assert learned(example, tokenizer) == "fix<|im_end|>done<|im_end|>"
    alone = make_episode([Turn("o", "student", "x")])  # kappa beyond the end teaches nothing
    (example,) = method.examples([Round(1, [alone], [])])
    assert example_tree(example, Renderer(tokenizer)) is None


def test_oec_drops_failures_and_repetition(tokenizer):
    method = OEC(latest=6, most_repeats=2)
    assert method.collect(1).mixer == SingleSwitch(6)
    again = [Turn(f"o{n}", "teacher", "t", ToolCall("bash", {"command": "ls"})) for n in range(3)]
    stubborn = make_episode(again, "stubborn")
    assert longest_repetition(stubborn) == 3 and longest_repetition(switched()) == 1
    data = [switched("failed", outcome=UNRESOLVED), stubborn, switched("good")]
    (example,) = method.examples([Round(1, data, [])])
    assert example.episode.episode_id == "good"
    assert learned(example, tokenizer) == "fix<|im_end|>done<|im_end|>"


def test_the_mixed_loss_imitates_the_teacher_and_corrects_the_student(tokenizer):
    method = Mixed(Schedule("cosine", rounds=3), estimator="k2", coefficient=0.5)
    plan = method.collect(2)
    assert (plan.mixer, plan.annotate) == (PerTurnBeta(0.5), "nothing")
    assert method.scoring == Scoring("teacher", turns="student")
    assert (method.objective.divergence, method.objective.coefficient) == ("k2", 0.5)
    scores = [Scores("s", 0, "t", (-3.0, -4.0, -5.0))]  # turn 1 was not scored: it teaches nothing
    (example,) = method.examples([Round(1, [switched()], [], scores)])
    assert learned(example, tokenizer) == "fix<|im_end|>done<|im_end|>"
    tree = example_tree(example, Renderer(tokenizer))
    carried = tree.kl_weight != 0
    assert tree.token_ids[carried].tolist() == [1, 2, 100]
    assert tree.score[carried].tolist() == [-3.0, -4.0, -5.0]


def test_dagger_labels_can_be_narrowed():
    labels = [Annotation("s", n, who, f"{who} {n}") for n in (0, 1) for who in ("a", "b")]
    data = [Round(1, [switched()], labels)]

    def targets(**options):
        (example,) = DAgger(LINEAR, **options).examples(data)
        return example.targets

    executed = (Target(2, None), Target(3, None))
    assert targets(annotator="a") == (Target(0, "a 0"), Target(1, "a 1"), *executed)
    assert len(targets()) == 6
    assert targets(labels="student_turns", annotator="b") == (Target(0, "b 0"), Target(1, "b 1"))
    assert targets(labels="executed_by_teacher") == executed
    assert DAgger(LINEAR, labels="executed_by_teacher").collect(1).annotate == "nothing"
    with pytest.raises(ValueError, match="student_turns"):
        DAgger(LINEAR, labels="some")


def test_a_window_of_rounds():
    data = [Round(n, [switched(f"e{n}")], []) for n in range(4)]

    def names(**options):
        return [x.episode.episode_id for x in AggreVaTe(**options).examples(data)]

    assert names() == ["e3"]
    assert names(aggregation="window", window=2) == ["e2", "e3"]
    assert names(aggregation="window", window=9) == names(aggregation="union")
    with pytest.raises(ValueError, match="window"):
        AggreVaTe(aggregation="window", window=0)
