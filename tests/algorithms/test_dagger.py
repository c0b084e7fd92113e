"""Whose labels are learned where several teachers have labeled the same states."""

from algorithms.base import Round, Target
from algorithms.dagger import DAgger
from algorithms.schedules import Schedule
from algorithms.sft import SFT
from swe_gym_env.types import Annotation, Turn
from tests.algorithms.conftest import make_episode

TURNS = [Turn("see 0", "student", "oops"), Turn("see 1", "teacher", "fix")]
LABELS = [
    Annotation("m", 0, "expert", "right"),
    Annotation("m", 0, "other", "left"),
    Annotation("m", 1, "expert", "fix", executed=True),
    Annotation("m", 1, "other", "finish"),
]
ROUND = Round(1, [make_episode(TURNS, "m")], LABELS)


def learned(annotator, round=ROUND):
    algorithm = DAgger(Schedule("constant"), annotator=annotator)
    (example,) = algorithm.examples([round])
    return [(target.turn, target.text) for target in example.targets]


def test_one_annotator_or_all():
    assert learned(None) == [(0, "right"), (0, "left"), (1, None)]
    assert learned("expert") == [(0, "right"), (1, "fix")]
    assert learned("other") == [(0, "left"), (1, "finish")]


def test_a_turn_that_a_teacher_executed_is_its_own_label_where_nobody_labeled():
    assert learned("other", Round(0, ROUND.episodes, [])) == [(1, None)]


def test_sft_does_not_learn_what_fell_to_the_student():
    (example,) = SFT(keep="all").examples([ROUND])
    assert example.targets == (Target(1, None),)
