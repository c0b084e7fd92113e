"""`Rollout`: episodes come back as they end, a killed script goes on, and mistakes are named."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import (
    Cluster,
    Episode,
    PerTurnBeta,
    Progress,
    Reply,
    Request,
    Rollout,
    RoundFolder,
    SetupError,
    State,
    TaskInstance,
    TeacherOnly,
)
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.terminal import Line
from swe_gym_env.tasks import jsonl
from tests.support.toy_tasks import FINISH, FIX, GOLD, Flaky, copies, real_provider, toy_task

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
POLICY = ScriptedPolicy([FIX, FINISH], "student")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TaskInstance]]:
    real_provider("process")
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield copies(replace(toy_task(home), gold_patch=GOLD), 4)


def rollout(policy: Any = POLICY, **options: Any) -> Rollout:
    return Rollout(policy, **{"sandbox": "process", "max_turns": 6, **options})


def ids(episodes: Sequence[Episode]) -> list[str]:
    return sorted(episode.episode_id for episode in episodes)


def test_episodes_come_back_with_labels_and_make_a_round(tasks) -> None:
    run = rollout(teacher=ExpertPolicy(), mixer=PerTurnBeta(0.5), label=True, history=2)
    episodes = list(run(tasks[:2], repeats=2, seed=3, round=1))
    assert ids(episodes) == [f"toy-{n}/1/{repeat}/3" for n in (1, 2) for repeat in (0, 1)]
    for episode in episodes:
        assert [label.turn for label in run.labels(episode)] == list(range(len(episode.turns)))
    collected = run.collected(1)
    assert (collected.index, ids(collected.episodes)) == (1, ids(episodes))
    assert len(collected.annotations) == sum(len(episode.turns) for episode in episodes)
    (again,) = run(tasks[2:3])
    assert ids(run.collected().episodes) == [again.episode_id], "memory holds the last call"


def test_a_function_and_a_bare_object_are_policies(tasks) -> None:
    def solve(state: State) -> str:
        return FINISH if state.turns else FIX

    class Bare:
        def act(self, states: Sequence[State]) -> list[Reply]:
            return [Reply(text=solve(state)) for state in states]

    for policy in (solve, Bare()):
        (episode,) = rollout(policy)(tasks[:1])
        assert episode.outcome.resolved
    assert rollout(solve).settings["policy"] == "solve"
    assert rollout(Bare()).settings["policy"] == "Bare"


def test_an_episode_comes_back_before_the_others_end(tasks) -> None:
    go = threading.Event()

    def act(state: State) -> str:
        if state.task.instance_id != "toy-1":
            go.wait(20)
        return FIX if not state.turns else FINISH

    episodes = rollout(act, concurrency=1)(tasks[:2])
    assert next(episodes).instance_id == "toy-1"
    go.set()
    assert ids(list(episodes)) == ["toy-2/0/0/0"]


def test_a_store_plays_only_what_is_missing(tasks, tmp_path) -> None:
    asked: list[str] = []

    def act(state: State) -> str:
        asked.append(state.task.instance_id)
        return FINISH if state.turns else FIX

    teacher = ScriptedPolicy([FIX, FINISH], "teacher")
    options = {"store": tmp_path / "s", "teacher": teacher, "label": True}
    first = rollout(act, **options)
    assert len(list(first(tasks[:2]))) == 2
    seen: list[Progress] = []
    second = rollout(act, **options, progress=seen.append)
    episodes = list(second(tasks[:3]))
    assert [episode.instance_id for episode in episodes] == ["toy-1", "toy-2", "toy-3"]
    assert sorted(asked) == ["toy-1"] * 2 + ["toy-2"] * 2 + ["toy-3"] * 2
    assert all(len(second.labels(episode)) == 2 for episode in episodes)
    assert seen[0] == Progress(total=3, done=2, resolved=2, turns=4)
    assert (seen[-1].done, seen[-1].resolved, seen[-1].turns) == (3, 3, 6)
    assert ids(second.collected().episodes) == ids(episodes)
    assert len(RoundFolder(tmp_path / "s").annotations()) == 6


def test_an_infrastructure_error_is_played_again(tasks, tmp_path) -> None:
    flaky = Flaky(real_provider("process"), {0: 1})
    store = tmp_path / "s"
    first = list(rollout(sandbox=flaky, retries=0, concurrency=1, store=store)(tasks[:2]))
    assert sorted(episode.outcome.status for episode in first) == ["infra_error", "resolved"]
    again = list(rollout(store=store)(tasks[:2]))
    assert [episode.outcome.status for episode in again] == ["resolved", "resolved"]
    broken = Flaky(real_provider("process"), {0: 0})
    with pytest.raises(SetupError, match="all 1 episodes failed for reasons outside the agent"):
        list(rollout(sandbox=broken, retries=0)(tasks[:1]))


def test_without_grading_a_stored_episode_is_finished(tasks, tmp_path) -> None:
    for _ in range(2):
        (episode,) = rollout(store=tmp_path / "s", grade="never")(tasks[:1])
        assert episode.outcome.mask and episode.outcome.reason == "not graded"
    assert len((tmp_path / "s" / "episodes.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turns": 7}, "max_turns=6, not 7"),
        ({"policy": ScriptedPolicy([FIX], "other")}, "policy='student', not 'other'"),
        ({"mixer": TeacherOnly(), "teacher": POLICY}, r"mixer='StudentOnly\(\)', not 'Teacher"),
        ({"action_format": "xml"}, "action_format='bash_block', not 'xml'"),
        ({"count_tokens": len}, "count_tokens=None, not 'len'"),
    ],
)
def test_a_store_of_other_settings_is_refused(tasks, tmp_path, options, message) -> None:
    list(rollout(store=tmp_path)(tasks[:1]))
    with pytest.raises(SetupError, match=message):
        rollout(**{"store": tmp_path, **options})(tasks[:1])


def test_a_store_of_other_tasks_or_without_settings_is_refused(tasks, tmp_path) -> None:
    list(rollout(store=tmp_path)(tasks[:1]))
    other = replace(tasks[0], problem_statement="Something else.")
    with pytest.raises(SetupError, match=r"other tasks with the same names: toy-1 \(1 in all\)"):
        rollout(store=tmp_path)([other])
    (tmp_path / "rollout.json").unlink()
    with pytest.raises(SetupError, match=r"holds episodes, but no rollout\.json"):
        rollout(store=tmp_path)(tasks[:1])


def test_two_rollouts_do_not_write_one_store(tasks, tmp_path) -> None:
    first = rollout(store=tmp_path)(tasks[:2])
    next(first)
    with pytest.raises(SetupError, match="another roll-out is writing into"):
        next(rollout(store=tmp_path)(tasks[:2]))
    first.close()
    assert len(list(rollout(store=tmp_path)(tasks[:2]))) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rollout("gpt"), "policy='gpt' is no policy: it is an object with act"),
        (lambda: rollout(ScriptedPolicy), "policy=the class ScriptedPolicy is no policy"),
        (lambda: rollout(teacher=3), "teacher=3 is no policy"),
        (lambda: rollout(label=True), "a teacher is needed"),
        (lambda: rollout(mixer=TeacherOnly()), "a teacher is needed"),
        (lambda: rollout(mixer=0.5, teacher=POLICY), r"mixer=0\.5 is no mixer"),
        (lambda: rollout(backend="slurm"), "backend='slurm': it is one of local, ray"),
        (lambda: rollout(cluster=Cluster()), "backend='ray' is needed"),
        (lambda: rollout(concurrency=0), "concurrency=0: it is a whole number of at least 1"),
        (lambda: rollout(max_turns=0), "max_turns=0: it is a number above 0"),
        (lambda: rollout(max_turns="9"), "max_turns='9': it is a number above 0"),
        (lambda: rollout(max_turn=9), "no argument max_turn: there are policy, teacher, .*max_tu"),
        (lambda: rollout(action_format="yaml"), "no action format 'yaml'; there are: bash_block"),
        (lambda: rollout(grade="later"), "grade='later'"),
        (lambda: rollout(history=0), "history=0"),
        (lambda: rollout(sandbox="dokcer"), "no sandbox 'dokcer'"),
        (lambda: rollout()([]), "the list is empty"),
        (lambda: rollout()("pypi"), "a list of TaskInstance"),
        (lambda: rollout()([{"instance_id": "x"}]), "is no TaskInstance"),
        (lambda: rollout().play([]), "no episodes to play"),
    ],
)
def test_a_wrong_argument_is_named_at_once(make, message) -> None:
    with pytest.raises(SetupError, match=message):
        make()


def test_wrong_tasks_and_repeats_are_named_at_once(tasks) -> None:
    with pytest.raises(SetupError, match=r"1 tasks are there more than once.*toy-1.*repeats"):
        rollout()([tasks[0], tasks[0]])
    with pytest.raises(SetupError, match="repeats=0"):
        rollout()(tasks, repeats=0)
    with pytest.raises(SetupError, match="same episode id: toy-1/0/0/0"):
        rollout().play([Request(tasks[0]), Request(tasks[0])])
    with pytest.raises(SetupError, match=r"policy 'texts' .* one Reply for each state, not \['ls'"):
        list(rollout(Texts())(tasks[:1]))


class Texts:
    """Returns texts where replies are wanted."""

    name, needs_sandbox = "texts", False

    def act(self, states: Sequence[State]) -> Any:
        return ["ls" for _ in states]


def test_closing_leaves_no_sandbox_and_keeps_the_store(tasks, tmp_path) -> None:
    slow = ScriptedPolicy(
        lambda s: (
            FIX
            if not s.turns
            else FINISH
            if s.task.instance_id == "toy-1"
            else "```bash\nsleep 50\n```"
        ),
        "slow",
    )
    watched = Flaky(real_provider("process"), {})
    run = rollout(slow, sandbox=watched, store=tmp_path, concurrency=3)
    episodes = run(tasks[:3])
    assert next(episodes).instance_id == "toy-1"
    began = time.monotonic()
    episodes.close()
    assert time.monotonic() - began < 20
    assert watched.made and all(sandbox.closed for sandbox in watched.made)
    assert "rollout" not in {thread.name for thread in threading.enumerate()}
    assert ids(RoundFolder(tmp_path).episodes()) == ["toy-1/0/0/0"]


SCRIPT = """
import sys, time
from swe_gym_env import Rollout, tasks
rows, store, where = sys.argv[1:]
def act(state):
    if state.task.instance_id == "toy-1":
        return ["```bash\\nsed -i s/-/+/ calc.py\\n```", "```bash\\nfinish\\n```"][len(state.turns)]
    return "```bash\\necho begun > $HOME/begun; sleep 55\\n```"
run = Rollout(act, sandbox="process", store=store, concurrency=2, max_turns=6)
for episode in run(tasks.load("jsonl", path=rows)):
    print(episode.instance_id, flush=True)
    if where == "loop":
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["loop", "wait"])
def test_ctrl_c_ends_a_script_and_keeps_the_store(tasks, tmp_path, where) -> None:
    jsonl.save(tasks[:2], tmp_path / "rows.jsonl")
    words = [sys.executable, "-c", SCRIPT, "rows.jsonl", "store", where]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "toy-1\n"
    process.send_signal(signal.SIGINT)
    _, words_of_error = process.communicate(timeout=40)
    assert process.returncode != 0 and "KeyboardInterrupt" in words_of_error
    assert ids(RoundFolder(tmp_path / "store").episodes()) == ["toy-1/0/0/0"]
    assert "\r" not in words_of_error, "no line of progress where there is no terminal"


@pytest.mark.slow
def test_it_needs_only_gymnasium_and_numpy(tasks, tmp_path) -> None:
    jsonl.save(tasks[:1], tmp_path / "rows.jsonl")
    blocked = ["torch", "hydra", "omegaconf", "httpx", "libcst", "ray", "rich", "docker", "yaml"]
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "from swe_gym_env import *\n"
        f"texts = {[FIX, FINISH]!r}\n"
        "run = Rollout(lambda s: texts[len(s.turns)], sandbox='process', store='store')\n"
        "print([e.outcome.status for e in run(tasks.load('jsonl', path='rows.jsonl'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "['resolved']\n", done.stderr
    assert json.loads((tmp_path / "store" / "rollout.json").read_text())["version"] == 1


def test_progress_is_one_line_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, pipe = Terminal(), io.StringIO()
    for where in (stream, pipe):
        with Line(where) as line:
            line(Progress(total=4, done=1))
            line(Progress(total=4, done=2, resolved=1, running=2, turns=9))
    assert pipe.getvalue() == ""
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert re.search(r"2 of 4 episodes, 1 resolved, 2 running, 9 turns, [\d.]+ episodes", text)
