"""A label whose text is that of the executed turn is a label nevertheless: the student's tokens for
it, and the student's end of turn, with loss. What was executed stays as it was sampled. Every mask
is read as the text that it covers."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.base import Round, Target, TrainingExample
from algorithms.dagger import DAgger
from algorithms.engine.examples import example_tree, labels_as_executed
from algorithms.engine.rendering import Renderer
from algorithms.gkd import GKD
from algorithms.grpo import GRPO
from algorithms.rft import RFT
from algorithms.schedules import Schedule
from algorithms.sft import SFT
from swe_gym_env.types import Annotation, Scores, Turn
from tests.algorithms.conftest import make_episode
from tests.algorithms.families import family
from tests.algorithms.test_tree import path

END, OTHER = "<|im_end|>", "<|im_start|>"  # a model may stop on a second token too
TEXT = "```bash\nls\n```"


@pytest.fixture
def renderer(tokenizer):
    return Renderer(tokenizer)


def sampled(renderer, how: str, text: str = TEXT) -> Turn:
    ids = renderer.encode(text)
    ids += {"whole": [renderer.end_id], "cut": [], "other": [renderer.end_id + 1]}[how]
    return Turn("look", "student", text, None, tuple(ids), (-1.0,) * len(ids))


def learned(renderer, example: TrainingExample, turn: int = 0, stream: str = "ce_weight") -> str:
    tree = example_tree(example, renderer)
    here = (getattr(tree, stream) != 0) & (tree.segment == turn)
    return renderer.decode(tree.token_ids[here])


def seen_by_the_next_turn(renderer, example: TrainingExample) -> str:
    tree = example_tree(example, renderer)
    first = int(np.flatnonzero(tree.segment == 1)[0])
    return renderer.decode(path(tree, int(tree.parent[first])))


def dagger(turn: Turn, label: str = TEXT, annotators=("expert",)) -> TrainingExample:
    after = Turn("then", "teacher", "done")
    episode = make_episode([turn, after])
    labels = [Annotation("e", 0, who, label) for who in annotators]
    method = DAgger(Schedule("constant", start=0.0))
    (example,) = method.examples([Round(1, [episode], labels)])
    return example


@pytest.mark.parametrize("how", ["whole", "cut", "other"])
def test_a_label_of_the_same_text_ends_as_the_student_ends_a_turn(renderer, how) -> None:
    example = dagger(sampled(renderer, how))
    assert learned(renderer, example) == TEXT + END
    assert learned(renderer, example, 1) == "done" + END
    executed = TEXT + {"whole": END, "cut": END, "other": OTHER + END}[how]
    assert seen_by_the_next_turn(renderer, example).endswith("assistant\n" + executed)
    # what is equal is computed once
    tree, text = example_tree(example, renderer), renderer.encode("bash")
    runs = [
        n
        for n in range(len(tree) - 3)
        if tree.token_ids[n : n + 4].tolist() == text and tree.segment[n] == 0
    ]
    assert len(runs) == 1
    same, other = labels_as_executed([example], renderer)
    assert (same, other) == (1, int(how != "whole"))


def test_a_label_is_spelled_as_the_tokenizer_spells_it() -> None:
    renderer = Renderer(family("qwen3"))
    canonical = renderer.encode("ls -la")
    letters = [token for letter in "ls -la" for token in renderer.encode(letter)]
    assert len(letters) > len(canonical)
    turn = Turn("look", "student", "ls -la", None, (*letters, renderer.end_id), (-1.0,) * 7)
    example = dagger(turn, "ls -la")
    tree = example_tree(example, renderer)
    here = (tree.ce_weight != 0) & (tree.segment == 0)
    assert tree.token_ids[here].tolist() == [*canonical, renderer.end_id]
    first = int(np.flatnonzero(tree.segment == 1)[0])
    assert path(tree, int(tree.parent[first]))[-7:] == [*letters, renderer.end_id]
    assert labels_as_executed([example], renderer) == (1, 1)


def test_blanks_make_another_label_unless_the_template_drops_them(renderer) -> None:
    turn = sampled(renderer, "cut")
    assert learned(renderer, dagger(turn, TEXT + "\n")) == TEXT + "\n" + END
    trimming = Renderer(family("gemma3"))
    own = Turn("look", "student", "ls \n", None, tuple(trimming.encode("ls \n")), ())
    assert learned(trimming, dagger(own, "ls \n")) == "ls<end_of_turn>"


def test_labels_of_two_annotators_add_up(renderer) -> None:
    example = dagger(sampled(renderer, "cut"), annotators=("a", "b"))
    tree = example_tree(example, renderer)
    assert set(tree.ce_weight[(tree.segment == 0) & (tree.ce_weight != 0)]) == {2.0}
    assert learned(renderer, example) == TEXT + END


def test_a_thought_before_the_same_words_is_no_part_of_the_label() -> None:
    renderer = Renderer(family("qwen3"), "stripped")
    output = f"<think>\nhm\n</think>\n\n{TEXT}"
    turn = Turn("look", "student", output, None, (*renderer.encode(output), renderer.end_id), ())
    assert learned(renderer, dagger(turn)) == TEXT + END
    assert learned(renderer, dagger(turn, output)) == output + END


@pytest.mark.parametrize("how", ["whole", "cut", "other"])
def test_the_executed_turn_itself_is_learned_as_it_was_sampled(renderer, how) -> None:
    """RFT, GRPO, GKD: its own tokens, and no loss on an end that nobody sampled."""
    turn = sampled(renderer, how)
    own = TEXT + {"whole": END, "cut": "", "other": OTHER}[how]
    episode = make_episode([turn])
    (example,) = RFT().examples([Round(1, [episode], [])])
    assert learned(renderer, example) == own
    worse = make_episode([turn], "e2", repeat=1)
    worse = type(worse)(**{**vars(worse), "instance_id": "e", "outcome": failed()})
    for example in GRPO(repeats=2).examples([Round(1, [episode, worse], [])]):
        assert learned(renderer, example, stream="pg_weight") == own
    count = len(renderer.reply(turn).token_ids)
    scores = Scores("e", 0, "t", (-1.0,) * count, ((1,),) * count, ((-1.0,),) * count)
    (example,) = GKD().examples([Round(1, [episode], [], [scores])])
    assert learned(renderer, example, stream="kl_weight") == own


def failed():
    from swe_gym_env.types import Outcome

    return Outcome("unresolved")


def test_a_turn_of_the_teacher_is_its_own_label_and_has_an_end(renderer) -> None:
    episode = make_episode([Turn("look", "teacher", TEXT)])
    (example,) = SFT().examples([Round(0, [episode], [])])
    assert learned(renderer, example) == TEXT + END
    assert labels_as_executed([example], renderer) == (0, 0)


@pytest.mark.parametrize("weights", [{"pg_weight": 1.0}, {"kl_weight": 1.0}])
def test_a_label_carries_cross_entropy_alone(renderer, weights) -> None:
    turn = sampled(renderer, "whole")
    with pytest.raises(ValueError, match="divergences need executed turns"):
        example_tree(TrainingExample(make_episode([turn]), (Target(0, TEXT, **weights),)), renderer)
