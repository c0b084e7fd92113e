"""The roll-out driver on real sandboxes: what is recorded, and that faults and order change
nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.policies.base import CONTEXT_FULL, Reply, State, keyed_rng
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout import asking
from swe_gym_env.rollout.driver import Progress, Request, rollout
from swe_gym_env.rollout.mixers import (
    Mixer,
    PerEpisodeBeta,
    PerTurnBeta,
    SingleSwitch,
    StudentOnly,
    TeacherOnly,
)
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import Annotation, Episode, TaskInstance, ToolCall
from tests.support.toy_tasks import FINISH, FIX, LOOK, Flaky, copies, real_provider, toy_task

pytestmark = pytest.mark.sandbox

Played = list[tuple[Episode, list[Annotation]]]


@pytest.fixture(scope="module")
def provider() -> SandboxProvider:
    return real_provider("process")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TaskInstance]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield copies(toy_task(home), 4)


def wander(state: State) -> Reply:
    """A student that looks about at random, sometimes in no format at all."""
    rng = keyed_rng(state.key)
    text = f"```bash\nsed -n {rng.integers(1, 9)}p calc.py\n```" if rng.random() < 0.7 else "hm"
    return Reply(text=text, token_ids=(1, 2, 3), logprobs=(-0.1, -0.2, -0.3), policy_version="v0")


def teach(state: State) -> Reply:
    """A teacher that knows the repair, and speaks in calls rather than in the student's format."""
    if state.sandbox is not None and b"a + b" in state.sandbox.read("/testbed/calc.py"):
        return Reply(action=ToolCall("finish", reasoning="Done."))
    command = "sed -i 's/a - b/a + b/' calc.py"
    return Reply(action=ToolCall("bash", {"command": command}, "The sign is wrong."))


STUDENT = ScriptedPolicy(wander, "student")
TEACHER = ScriptedPolicy(teach, "expert", needs_sandbox=True)


def play(
    tasks: Sequence[TaskInstance],
    provider: SandboxProvider,
    *,
    mixer: Mixer,
    student: Any = STUDENT,
    teacher: Any = TEACHER,
    annotate: bool = True,
    env: dict[str, Any] | None = None,
    repeats: int = 1,
    **options: Any,
) -> Played:
    played: Played = []
    settings = {"grade": "deferred", "max_turns": 6, **(env or {})}
    rollout(
        [Request(task, seed=7, round=2, repeat=r) for task in tasks for r in range(repeats)],
        make_env=lambda task: SWEEnv([task], sandbox=provider, **settings),
        student=student,
        teacher=teacher,
        mixer=mixer,
        annotate=annotate,
        on_episode=lambda episode, labels: played.append((episode, labels)),
        **options,
    )
    return sorted(played, key=lambda pair: pair[0].episode_id)


def timeless(played: Played) -> list[Any]:
    """What must not depend on how fast anything was."""
    return [
        (
            replace(
                episode,
                turns=tuple(replace(t, act_seconds=0, step_seconds=0) for t in episode.turns),
                outcome=replace(episode.outcome, seconds=0, tests={}),
                seconds=0,
                metadata={k: v for k, v in episode.metadata.items() if k not in ("costs",)},
            ),
            labels,
        )
        for episode, labels in played
    ]


def test_the_teacher_plays_and_its_labels_are_its_turns(tasks, provider) -> None:
    for episode, labels in play(tasks[:2], provider, mixer=TeacherOnly()):
        assert episode.outcome.resolved and episode.stop_reason == "finished"
        assert episode.episode_id == f"{episode.instance_id}/2/0/7"
        assert episode.teacher_share == 1.0 and "+    return a + b" in episode.patch
        first, last = episode.turns
        assert first.text == f"The sign is wrong.\n{FIX}" and last.text == f"Done.\n{FINISH}"
        assert first.observation.startswith("add(1, 2)") and last.observation == "(no output)"
        assert last.action == ToolCall("finish", reasoning="Done.") and first.token_ids == ()
        assert episode.final_observation == "(finished)"
        assert set(episode.metadata["costs"]) == {"start", "tools", "diff", "grade"}
        assert [(label.turn, label.text, label.executed, label.annotator) for label in labels] == [
            (0, first.text, True, "expert"),
            (1, last.text, True, "expert"),
        ]


def test_every_visited_state_is_labeled_and_the_history_is_what_was_executed(
    tasks, provider
) -> None:
    played = play(tasks, provider, mixer=PerTurnBeta(0.4), repeats=2)
    actors = set()
    for episode, labels in played:
        assert [label.turn for label in labels] == list(range(len(episode.turns)))
        for turn, label in zip(episode.turns, labels, strict=True):
            actors.add(turn.actor)
            assert label.text is not None and label.action is not None and not label.error
            assert label.executed == (turn.actor == "teacher")
            if turn.actor == "student":
                assert turn.text != label.text and turn.token_ids == (1, 2, 3)
                assert turn.policy_version == "v0" and turn.logprobs == (-0.1, -0.2, -0.3)
                assert (turn.action is None) == (turn.text == "hm")
            else:
                assert turn.text == label.text and turn.action == label.action
    assert actors == {"student", "teacher"}
    assert any(turn.text == "hm" for episode, _ in played for turn in episode.turns)


def test_each_turn_keeps_what_it_changed(tasks, provider) -> None:
    commands = [
        "git status --porcelain",
        "sed -i 's/a - b/a + b/' calc.py",
        "echo x = 1 > new.py",
        "git add -A && git -c user.name=a -c user.email=a@b.c commit -qm done && rm new.py",
        "git status --porcelain; ls .git | grep -c seen",
        "git checkout -q HEAD~1 && git status --porcelain",
    ]
    texts = [*(f"```bash\n{command}\n```" for command in commands), "no action", FINISH]
    student = ScriptedPolicy(lambda state: texts[len(state.turns)], "student")
    env = {"max_turns": 9}
    ((episode, _),) = play(
        tasks[:1], provider, mixer=StudentOnly(), student=student, annotate=False, env=env
    )
    first, fixed, added, removed, same, undone, no_action, last = (t.patch for t in episode.turns)
    assert first == "" and "+    return a + b" in fixed and "new.py" not in fixed
    assert "+x = 1" in added and "+    return a + b" in added
    assert removed == fixed and same is None and undone == "" and no_action is None and last is None
    seen = [turn.observation for turn in episode.turns]
    assert seen[1] == "(no output)" and seen[5].startswith(" D new.py\n0")
    assert episode.patch == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "grades"),
    [
        (PerTurnBeta(0.3), ("deferred", "on_end")),
        (PerEpisodeBeta(0.5), ("never", "never")),
        (SingleSwitch(3), ("never", "never")),
    ],
    ids=repr,
)
def test_neither_concurrency_nor_order_changes_what_is_recorded(
    tasks, provider, mixer, grades
) -> None:
    def late(state: State) -> Reply:  # episodes end out of step
        time.sleep(keyed_rng(state.key).random() * 0.01)
        return wander(state)

    alone = play(tasks, provider, mixer=mixer, repeats=2, concurrency=1, env={"grade": grades[0]})
    many = play(
        random.Random(str(mixer)).sample(tasks, len(tasks)),
        provider,
        mixer=mixer,
        repeats=2,
        concurrency=5,
        student=ScriptedPolicy(late, "student"),
        env={"grade": grades[1]},
    )
    assert timeless(alone) == timeless(many)
    assert {turn.actor for e, _ in alone for turn in e.turns} == {"student", "teacher"}


@pytest.mark.slow
def test_without_annotation_the_teacher_is_asked_only_where_it_acts(tasks, provider) -> None:
    asked: list[int] = []

    def count(state: State) -> Reply:
        asked.append(state.key[4])
        return teach(state)

    teacher = ScriptedPolicy(count, "expert", needs_sandbox=True)
    played = play(tasks, provider, mixer=PerTurnBeta(0.5), teacher=teacher, annotate=False)
    taken = sum(turn.actor == "teacher" for episode, _ in played for turn in episode.turns)
    assert len(asked) == taken > 0 and not any(labels for _, labels in played)
    alone = play(tasks[:1], provider, mixer=StudentOnly(), teacher=None, annotate=False)
    assert alone[0][0].teacher_share == 0.0
    with pytest.raises(SetupError, match="teacher"):
        play(tasks[:1], provider, mixer=TeacherOnly(), teacher=None, annotate=False)


class Raising:
    """A teacher that breaks its contract."""

    name, needs_sandbox = "raising", False

    def act(self, states: Sequence[State]) -> list[Reply]:
        raise RuntimeError("no teacher today")


@pytest.mark.parametrize(
    ("teacher", "error"),
    [
        (ScriptedPolicy([Reply(error="HTTP 500")], "bad"), "HTTP 500"),
        (ScriptedPolicy(["I would look."], "bad"), "format: no ```bash block"),
        (ScriptedPolicy([Reply(action=ToolCall("browse"))], "bad"), "format: a bash block cannot"),
        (Raising(), "RuntimeError: no teacher today"),
    ],
)
def test_a_teacher_that_fails_never_costs_an_episode(tasks, provider, teacher, error) -> None:
    student = ScriptedPolicy([FIX, FINISH], "student")
    [(episode, labels)] = play(
        tasks[:1], provider, mixer=TeacherOnly(), teacher=teacher, student=student
    )
    assert episode.outcome.resolved and episode.teacher_share == 0.0
    assert episode.metadata["teacher_fallbacks"] == len(episode.turns) == 2
    assert all(label.text is None and label.error.startswith(error) for label in labels)
    assert not any(label.executed for label in labels)


def test_a_teacher_may_speak_text_in_the_students_format(tasks, provider) -> None:
    teacher = ScriptedPolicy([f"{FIX}\nThat should do.", FINISH], "text")
    [(episode, _)] = play(tasks[:1], provider, mixer=TeacherOnly(), teacher=teacher)
    assert episode.turns[0].text == FIX and episode.outcome.resolved


def test_lost_sandbox_is_replaced_and_the_episode_played_again(tasks, provider) -> None:
    student = ScriptedPolicy([LOOK, FIX, FINISH], "student")
    flaky = Flaky(provider, {0: 1, 1: 0})
    [(episode, _)] = play(
        tasks[:1], flaky, mixer=StudentOnly(), student=student, env={"grade": "never"}
    )
    assert episode.metadata["attempts"] == 3 and episode.stop_reason == "finished"
    assert len(episode.turns) == 3 and "a + b" in episode.patch
    assert all(sandbox.closed for sandbox in flaky.made)


def test_after_the_retries_it_is_an_infra_error_that_counts_for_nothing(tasks, provider) -> None:
    flaky = Flaky(provider, {0: 1, 1: 1})
    [(episode, _)] = play(
        tasks[:1],
        flaky,
        mixer=StudentOnly(),
        student=ScriptedPolicy([LOOK, FIX], "student"),
        retries=1,
    )
    assert episode.outcome.status == "infra_error" and episode.outcome.mask
    assert episode.stop_reason == "infra_error" and episode.metadata["attempts"] == 2

    class NoRoom:
        name = "none"

        def create(self, spec: object) -> None:
            raise SandboxError("no room")

    [(episode, _)] = play(tasks[:1], NoRoom(), mixer=StudentOnly())  # type: ignore[arg-type]
    assert episode.outcome.reason == "sandbox: no room" and episode.turns == ()


def test_a_student_that_cannot_answer_is_a_fault_unless_its_context_is_full(
    tasks, provider
) -> None:
    down = ScriptedPolicy([FIX, Reply(error="HTTP 503")], "student")
    [(episode, _)] = play(tasks[:1], provider, mixer=StudentOnly(), student=down)
    assert episode.outcome.reason == "policy: HTTP 503" and episode.outcome.mask
    full = ScriptedPolicy([FIX, Reply(error=f"{CONTEXT_FULL}: 2049 > 2048")], "student")
    [(episode, labels)] = play(tasks[:1], provider, mixer=StudentOnly(), student=full)
    assert episode.stop_reason == "context_full" and episode.outcome.resolved
    assert len(episode.turns) == len(labels) == 1


def test_in_fixed_batches_all_are_asked_at_the_same_time(tasks, provider) -> None:
    both = threading.Barrier(2, timeout=30)
    asked: list[list[str]] = []

    class Meets:
        needs_sandbox = False

        def __init__(self, name: str) -> None:
            self.name = name

        def act(self, states: Sequence[State]) -> list[Reply]:
            both.wait()
            asked.append([state.task.instance_id for state in states])
            return [Reply(text=LOOK if not state.turns else FINISH) for state in states]

    student, teacher = Meets("s"), Meets("t")
    how = {"mixer": StudentOnly(), "student": student, "teacher": teacher, "concurrency": 3}
    play(tasks, provider, fixed_batches=True, **how)
    first, last = [f"toy-{n}" for n in (1, 2, 3)], ["toy-4"]
    assert asked == [first, first, first, first, last, last, last, last]


def test_an_episode_waits_for_no_other(tasks, provider) -> None:
    """Three episodes are answered only when the fourth has ended."""
    ended, order = threading.Event(), []

    class Submits:
        name, needs_sandbox = "submits", False

        def submit(self, state: State) -> Future[Reply]:
            return pool.submit(self.answer, state)

        def answer(self, state: State) -> Reply:
            if state.task.instance_id != "toy-4":
                assert ended.wait(60)
            return Reply(text=FIX if len(state.turns) < 3 else FINISH)

    def on_episode(episode: Episode, _: list[Annotation]) -> None:
        order.append(episode.instance_id)
        ended.set()

    with ThreadPoolExecutor() as pool:
        rollout(
            [Request(task) for task in tasks],
            make_env=lambda task: SWEEnv([task], sandbox=provider, grade="never"),
            student=Submits(),  # type: ignore[arg-type]
            mixer=StudentOnly(),
            annotate=False,
            on_episode=on_episode,
        )
    assert order[0] == "toy-4" and len(order) == 4


def test_a_student_does_not_wait_for_labels(tasks, provider) -> None:
    """The teacher answers only once the episode has ended; each label is still of its state."""
    graded, calls = threading.Event(), []

    class Late:
        name, needs_sandbox = "late", False

        def submit(self, state: State) -> Future[Reply]:
            return pool.submit(self.answer, state)

        def answer(self, state: State) -> Reply:
            assert graded.wait(60)
            calls.append(len(state.turns))
            return Reply(text=f"{len(state.turns)}\n{FINISH}")

    def act(state: State) -> str:
        if len(state.turns) == 2:
            graded.set()
        return [LOOK, FIX, FINISH][len(state.turns)]

    with ThreadPoolExecutor() as pool:
        ((episode, labels),) = play(
            tasks[:1],
            provider,
            mixer=StudentOnly(),
            student=ScriptedPolicy(act, "student"),
            teacher=Late(),
        )
    assert episode.outcome.resolved and sorted(calls) == [0, 1, 2]
    assert [(label.turn, label.text) for label in labels] == [
        (n, f"{n}\n{FINISH}") for n in range(3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mixer", [StudentOnly(), PerTurnBeta(0.4)], ids=repr)
def test_labels_at_the_end_are_those_of_the_turn(tasks, provider, mixer) -> None:
    def speak(state: State) -> Reply:
        rng = keyed_rng(state.key)
        return Reply(text=f"{state.observation[:20]!r} {rng.random():.6f}\n{FIX}")

    teacher = ScriptedPolicy(speak, "speaks")
    how = {"mixer": mixer, "teacher": teacher, "repeats": 2, "history": 2}
    in_turn = play(tasks, provider, **how)
    asked: list[tuple[str, int]] = []

    def noted(state: State) -> Reply:
        asked.append((state.task.instance_id, len(state.turns)))
        return speak(state)

    at_end = play(
        tasks,
        provider,
        **{**how, "teacher": ScriptedPolicy(noted, "speaks")},
        label_at="end",
        learned=lambda episode: episode.instance_id != "toy-2",
    )
    assert [e for e, _ in timeless(at_end)] == [e for e, _ in timeless(in_turn)]
    fixed = play(tasks, provider, **how, label_at="end", fixed_batches=True, concurrency=3)
    assert timeless(fixed) == timeless(in_turn)
    kept = [pair for pair in timeless(in_turn) if pair[0].instance_id != "toy-2"]
    assert [pair for pair in timeless(at_end) if pair[0].instance_id != "toy-2"] == kept
    dropped = [label for e, labels in at_end if e.instance_id == "toy-2" for label in labels]
    assert all(label.executed for label in dropped), "it is not learned from"
    if isinstance(mixer, StudentOnly):
        assert not any(name == "toy-2" for name, _ in asked) and not dropped
        for name in {name for name, _ in asked}:
            turns = [turn for of, turn in asked if of == name]
            assert len(turns) == sum(len(e.turns) for e, _ in at_end if e.instance_id == name)


def test_policies_let_go_of_every_episode_however_it_ends(tasks, provider) -> None:
    begun, ended = [], []

    class Keeps(ScriptedPolicy):
        def ended(self, key: Any) -> None:
            ended.append(key[2])

    def act(state: State) -> Reply:
        begun.append(state.task.instance_id)
        broken = state.task.instance_id == "toy-2"
        return Reply(error="HTTP 503") if broken else Reply(text=FINISH)

    played = play(tasks, provider, mixer=StudentOnly(), student=Keeps(act, "s"), retries=1)
    assert sorted(begun) == ["toy-1", "toy-2", "toy-2", "toy-3", "toy-4"] == sorted(ended)
    assert [e.outcome.status == "infra_error" for e, _ in played] == [False, True, False, False]


@pytest.mark.parametrize("fixed", [False, True])
def test_a_slow_command_does_not_hold_up_the_others(tasks, provider, monkeypatch, fixed) -> None:
    monkeypatch.setattr(asking, "BATCH_WAIT_SECONDS", 0.2)
    order: list[str] = []

    def act(state: State) -> str:
        slow = state.task.instance_id == "toy-1" and not state.turns
        return "```bash\nsleep 4\n```" if slow else FIX if len(state.turns) < 2 else FINISH

    rollout(
        [Request(task) for task in tasks[:2]],
        make_env=lambda task: SWEEnv([task], sandbox=provider, grade="never"),
        student=ScriptedPolicy(act),
        mixer=StudentOnly(),
        annotate=False,
        fixed_batches=fixed,
        on_episode=lambda episode, _: order.append(episode.instance_id),
    )
    assert order == ["toy-2", "toy-1"]


def test_interrupt_delivers_what_is_done_and_leaves_no_sandbox(tasks, provider) -> None:
    flaky = Flaky(provider, {})
    played: list[str] = []
    before = threading.active_count()

    def interrupted(state: State) -> str:
        if state.task.instance_id == "toy-3":
            while len(flaky.made) < 3 or not all(sandbox.closed for sandbox in flaky.made[:2]):
                time.sleep(0.01)  # (both have ended)
            raise KeyboardInterrupt
        return FINISH

    with pytest.raises(KeyboardInterrupt):
        rollout(
            [Request(task) for task in tasks],
            make_env=lambda task: SWEEnv([task], sandbox=flaky, grade="never"),
            student=ScriptedPolicy(interrupted),
            mixer=StudentOnly(),
            annotate=False,
            concurrency=2,
            on_episode=lambda episode, _: played.append(episode.instance_id),
        )
    assert sorted(played) == ["toy-1", "toy-2"]
    assert flaky.made and all(sandbox.closed for sandbox in flaky.made)
    assert threading.active_count() == before


@pytest.mark.slow
def test_progress_is_reported_and_ids_are_unique(tasks, provider) -> None:
    reports: list[Progress] = []
    student = ScriptedPolicy([FIX, FINISH], "student")
    play(tasks, provider, mixer=StudentOnly(), student=student, progress=reports.append)
    assert reports[-1] == Progress(total=4, done=4, resolved=4, running=0, turns=8)
    assert max(report.running for report in reports) == 4
    with pytest.raises(ValueError, match="episode id"):
        play([tasks[0], tasks[0]], provider, mixer=StudentOnly())


@pytest.mark.parametrize("name", ["process", "local"])
def test_interrupt_does_not_wait_for_running_commands(tasks, name) -> None:
    def interrupt(report: Progress) -> None:
        time.sleep(0.5)  # the commands have begun
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        play(
            tasks,
            real_provider(name),
            mixer=StudentOnly(),
            student=ScriptedPolicy(["```bash\nsleep 55\n```"]),
            progress=interrupt,
        )
    assert time.monotonic() - began < 15
