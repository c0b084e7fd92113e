"""Divergence against torch's own, and recovery in real sandboxes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from torch.distributions import Categorical, kl_divergence

from algorithms.engine import divergence as engine
from algorithms.engine.checkpoint import save_checkpoint
from algorithms.engine.divergence import divergences, kl_both_ways
from algorithms.engine.rendering import Renderer
from experiments.analysis.measure import NotMeasured
from experiments.console.progress import Display
from experiments.pipeline.environments import EnvFactory
from experiments.pipeline.student import Student
from experiments.probes import divergence, recovery
from experiments.probes.injected import missed_edit, place, wrong_edit, wrong_look
from experiments.runs.reader import StoredRun, read_runs
from swe_gym_env.disk import write_json
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.tasks import load
from swe_gym_env.types import Episode, Outcome, TaskInstance, Turn
from tests.algorithms.conftest import tiny_model
from tests.algorithms.sampled import chain, episode
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration
from tests.support.toy_tasks import FINISH, FIX, GOLD

pytestmark = pytest.mark.sandbox

UNDO = "```bash\ngit checkout -q calc.py\n```"


def exact(models, renderer, item):  # type: ignore[no-untyped-def]
    """By turn, from a plain forward and torch's distributions."""
    ids, sampled, _ = chain(renderer, item)
    here = torch.tensor(sampled[1:]).nonzero()[:, 0]
    with torch.inference_mode():
        p, q = (Categorical(logits=m(torch.tensor([ids])).logits[0, here]) for m in models)
    taken = torch.tensor(ids)[here + 1]
    sums = [kl_divergence(p, q), kl_divergence(q, p), p.log_prob(taken) - q.log_prob(taken)]
    counts = [len(turn.token_ids) for turn in item.turns]
    return [[float(part.sum()) for part in one.split(counts)] for one in sums], counts


def test_the_divergence_of_a_turn_is_that_of_torchs_distributions(
    tokenizer,
    monkeypatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setattr(engine, "CHUNK", 7)  # more than one
    rng, renderer = random.Random(0), Renderer(tokenizer)
    plain = [tiny_model(len(tokenizer), seed) for seed in (0, 7)]
    models = [tiny_model(len(tokenizer), seed) for seed in (0, 7)]
    for turns in (1, 4):
        item = episode(rng, renderer.end_id, "e", turns)
        found = divergences(*models, item, renderer)
        (reverse, forward, ratio), counts = exact(plain, renderer, item)
        assert [one.tokens for one in found] == counts
        assert [one.reverse for one in found] == pytest.approx(reverse, abs=1e-4)
        assert [one.forward for one in found] == pytest.approx(forward, abs=1e-4)
        assert [one.sampled for one in found] == pytest.approx(ratio, abs=1e-4)
    itself = divergences(models[0], models[0], item, renderer)
    assert all(abs(one.reverse) < 1e-5 and one.sampled == 0 for one in itself)


def test_the_sampled_log_ratio_is_the_exact_divergence_on_average() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(2, 1, 50).log_softmax(-1)
    drawn = torch.multinomial(p.exp()[0], 200_000, replacement=True)
    ratio = (p - q)[0, drawn]
    off = float(ratio.mean() - kl_both_ways(p, q)[0])
    assert abs(off) < 4 * float(ratio.std()) / 200_000**0.5


def test_models_of_two_vocabularies_are_refused(tokenizer) -> None:  # type: ignore[no-untyped-def]
    item = episode(random.Random(0), Renderer(tokenizer).end_id, "e", 1)
    models = [tiny_model(size) for size in (len(tokenizer), len(tokenizer) + 8)]
    with pytest.raises(SetupError, match="one vocabulary"):
        divergences(*models, item, Renderer(tokenizer))


def made_run(job: Job, tokenizer) -> StoredRun:  # type: ignore[no-untyped-def]
    """One round by a random student, with its checkpoints and its held-out toy tasks."""
    folder = job.runs / "dagger-0123"
    folder.mkdir(parents=True)
    cfg = configuration(*job.overrides, "sandbox=process")
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    write_json(folder / "tasks.json", {"heldout": [f"calc-{n}" for n in (8, 9, 10)]})
    rng, end = random.Random(0), Renderer(tokenizer).end_id
    for seed in (0, 1):
        own = RoundFolder(folder / "rounds" / f"round_{seed:03d}")
        save_checkpoint(tiny_model(len(tokenizer), seed), tokenizer, own.checkpoint)
        for number in range(3):
            own.append(episode(rng, end, f"e{number}", 3))
    (run,) = read_runs([folder])
    return run


def test_divergence_is_measured_once_and_by_whose_states(
    job: Job,
    tokenizer,
    monkeypatch,  # type: ignore[no-untyped-def]
) -> None:
    run, display = made_run(job, tokenizer), Display("WARNING")
    teacher = job.runs.parent / "teacher"
    save_checkpoint(tiny_model(len(tokenizer), 9), tokenizer, teacher)
    turns = divergence.measure(run, teacher, "float32", 2, display)
    assert {(one.set, one.student) for one in turns} == {("round 1", "after iteration 0")}
    assert [one.states for one in turns[:3]] == ["first turn", "student's", "student's"]
    whole = [tuple(row) for row in divergence.by_set(turns)]
    assert [row[3] for row in whole] == ["first turn", "student's", "all"]
    tokens, nats = (sum(getattr(one, name) for one in turns) for name in ("tokens", "reverse"))
    assert whole[-1][4:7] == (2, tokens, pytest.approx(nats / tokens))
    with pytest.raises(NotMeasured, match="both"):
        divergence.shift(turns)
    models = [tiny_model(len(tokenizer), seed) for seed in (0, 9)]
    (item,) = (e for e in run.rounds[1].episodes if e.episode_id == turns[0].episode)
    (reverse, *_), _ = exact(models, Renderer(tokenizer), item)
    assert [one.reverse for one in turns[:3]] == pytest.approx(reverse, abs=1e-4)

    RoundFolder(run.folder / "evaluations" / "round_001").append(item)
    shown = replace(run, demonstrated=[replace(item, episode_id="expert's")])
    more = divergence.measure(shown, teacher, "float32", 2, display)
    assert more[: len(turns)] == turns
    (row,) = map(tuple, divergence.shift(more))
    assert row[:4] == ("after round 1", "held-out", 1, 1)
    assert row[4] == row[5] and row[6] == 0, "the same episode, once as the teacher's"

    monkeypatch.setattr(divergence._Models, "_load", None)  # nothing is asked again
    assert divergence.measure(shown, teacher, "float32", 2, display) == more


def test_the_shift_is_between_the_states_of_one_student() -> None:
    def one(states: str, number: int, nats: float) -> divergence.Measured:
        head = ("round 1", 1, "after iteration 0", states, f"{number}", 1)
        return divergence.Measured(*head, 10, nats, 0.0, 0.0)

    turns = [one("teacher's", n, 1 + n % 3) for n in range(9)]
    turns += [one("student's", n, 5 + n % 3) for n in range(9, 18)]
    ((_, tasks, *sizes, taught, own, gap, low, high),) = divergence.shift(turns)
    assert (tasks, *sizes) == ("training", 9, 9)
    assert (taught, own, gap) == pytest.approx((0.2, 0.6, 0.4))
    assert 0.25 < low < 0.4 < high < 0.55

    apart = [replace(turn, set="after iteration 0") for turn in turns[9:]]
    ((_, tasks, *_),) = divergence.shift([*turns[:9], *apart])
    assert tasks == "unlike"


def test_where_a_mistake_is_injected() -> None:
    task = TaskInstance("t", "r", "c", "i", "p", GOLD, "", (), (), "")
    found = place(task)
    assert found is not None
    assert wrong_edit(*found).arguments == {"command": "sed -i '2d' calc.py"}
    command = "sed -i '2s/return/return/w /dev/stdout' calc.py"
    assert missed_edit(*found).arguments == {"command": command}
    assert wrong_look(*found).arguments == {"command": "sed -n '1,3p' calc.py"}
    added = "diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n@@ -4,0 +5 @@\n+import os\n"
    found = place(replace(task, gold_patch=added))
    assert found is not None
    assert wrong_edit(*found).arguments == {"command": "sed -i '4d' m.py"}
    command = "sed -i '4s/^//w /dev/stdout' m.py"
    assert missed_edit(*found).arguments == {"command": command}


def careful(state: State) -> Reply:
    """First takes back whatever may have been changed."""
    output = {turn.text for turn in state.turns}
    return Reply(text=next((text for text in (UNDO, FIX) if text not in output), FINISH))


def blind(state: State) -> Reply:
    return Reply(text=FIX if FIX not in {turn.text for turn in state.turns} else FINISH)


def test_a_pair_that_parted_before_the_mistake_is_none() -> None:
    def acted(*texts: str) -> Episode:
        turns = tuple(Turn("", "student", text, None) for text in texts)
        return Episode("a/0", "a", 0, 0, 0, "", turns, Outcome("resolved"), "finished")

    one, other = acted("look", "edit", "finish"), acted("look", "edit wrongly", "finish")
    assert recovery.alike(one, other, 1) and not recovery.alike(one, other, 2)


@pytest.mark.parametrize(
    ("policy", "lead", "turn", "recovers"),
    [(careful, "student", 0, True), (blind, "student", 0, False), (careful, "expert", 1, True)],
)
def test_recovery_is_of_a_student_that_goes_on_alone(
    job: Job,
    tokenizer,
    monkeypatch,
    policy,
    lead: str,
    turn: int,
    recovers: bool,  # type: ignore[no-untyped-def]
) -> None:
    run, display = made_run(job, tokenizer), Display("WARNING")
    tasks = load("jsonl", split="heldout", path=run.cfg.tasks.options.path)
    run = replace(run, tasks={task.instance_id: task for task in tasks})
    monkeypatch.setattr(Student, "policy", lambda *_, **__: ScriptedPolicy(policy))
    plan = recovery.Plan([turn], "wrong_edit", lead, ["last"], limit=1)
    pairs = recovery.measure(run, plan, display)
    assert [(pair.injected, pair.control) for pair in pairs] == [(recovers, True)]
    ((student, _, mistake, at, n, without, *_, back, _, _),) = recovery.rows(pairs, plan)
    assert (student, mistake, at) == ("dagger-0123 round_001", "wrong_edit", turn)
    assert (n, without, back) == (1, 1, recovers)

    (folder,) = (run.folder / "analysis" / "recovery").glob(f"*-{lead}-wrong_edit_{turn}")
    for item in RoundFolder(folder).episodes():
        who = [one.actor for one in item.turns]
        before = "teacher" if lead == "expert" else "student"
        rest = ["student"] * (len(who) - turn - 1)
        assert who == [*([before] * turn), "teacher", *rest]
        assert "sed -i '2d' calc.py" in item.turns[turn].text

    monkeypatch.setattr(EnvFactory, "__call__", None)  # nothing is played again
    assert recovery.measure(run, plan, display) == pairs


def test_what_is_not_there_is_named(job: Job, tokenizer) -> None:  # type: ignore[no-untyped-def]
    run, display = made_run(job, tokenizer), Display("WARNING")
    plan = recovery.Plan([0], "wrong_edit", "student", ["round_007"], None)
    with pytest.raises(NotMeasured, match="held-out tasks"):
        recovery.measure(run, plan, display)
    with pytest.raises(NotMeasured, match="round_007"):
        recovery.checkpoint(run, "round_007")
    with pytest.raises(SetupError, match="wrong_look"):
        recovery.Plan([0], "sabotage", "student", ["last"], None)
