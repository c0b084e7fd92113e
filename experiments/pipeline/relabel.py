"""What another teacher would have done in the states of stored episodes.

Groups of episodes are labeled turn by turn, so that a model gets the states of many episodes in one
batch and can reuse what it computed for the turn before. If the teacher needs a sandbox, the
executed turns are replayed in a new one. If the replay ends differently (a time limit, a sandbox
that fails), the rest of the episode has failed labels that give the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from experiments.console.progress import Display
from experiments.pipeline.environments import EnvFactory
from experiments.pipeline.teachers import Teacher
from swe_gym_env.actions import ActionFormat
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.policies.base import Policy, Reply, State, shown
from swe_gym_env.rollout.history import windowed
from swe_gym_env.rollout.running import Request
from swe_gym_env.rollout.store import RoundFolder, in_order
from swe_gym_env.rollout.turns import label
from swe_gym_env.types import Annotation, Episode, TaskInstance

IN_SANDBOXES = 8  # episodes at once where each needs a sandbox


@dataclass(eq=False)
class _Replay:
    """The replay of a stored episode.

    Attributes:
        episode: The stored episode.
        task: Its task.
        wanted: The turns without a label of this teacher.
        env: Where the turns are replayed; None for a teacher that needs no sandbox.
        lost: Why the replay cannot continue; empty while it can.
    """

    episode: Episode
    task: TaskInstance
    wanted: set[int]
    env: SWEEnv | None
    lost: str = ""

    def state(self, turn: int, teacher: Policy) -> State:
        episode = self.episode
        request = Request(self.task, episode.seed, episode.round, episode.repeat)
        return State(
            key=request.key(turn, "teacher"),
            task=shown(self.task, teacher),
            system_prompt=episode.system_prompt,
            turns=windowed(episode.turns[:turn], episode.metadata.get("history")),
            observation=episode.turns[turn].observation,
            sandbox=self.env.sandbox if self.env else None,
        )

    def go_to(self, turn: int) -> None:
        """Takes the sandbox from the state before the last turn to the state before ``turn``."""
        if self.env is None or self.lost or turn > max(self.wanted):
            return
        try:
            if turn == 0:
                self.env.reset(options={"instance_id": self.task.instance_id})
                return
        except InfraError as error:
            self.lost = f"{type(error).__name__}: {error}"
            return
        _, _, ended, cut, info = self.env.step(self.episode.turns[turn - 1].text)
        if ended or cut:
            self.lost = f"played again, it ended before turn {turn}: {info['stop_reason']}"


def relabel(
    folders: Sequence[RoundFolder],
    tasks: Mapping[str, TaskInstance],
    *,
    teacher: Teacher,
    form: ActionFormat,
    make_env: EnvFactory,
    concurrency: int,
    display: Display,
) -> tuple[int, int]:
    """Adds labels of ``teacher`` to the newest of ``folders``.

    Args:
        folders: Rounds 0, 1, ... of one run.
        tasks: By id; a teacher that needs no sandbox needs no tasks.
        teacher: The new teacher, which labels for as long as its budget lasts.
        form: How the student writes turns, and so how labels are written.
        make_env: Makes the environment in which an episode is replayed.
        concurrency: Episodes that are labeled at the same time.
        display: Shows the progress.

    Returns:
        How many labels of this teacher the round has now, and in how many states it failed.
    """
    folder, needs_sandbox = folders[-1], teacher.policy.needs_sandbox
    attempts = folder.attempts()
    there = {
        (a.episode_id, a.turn)
        for a in folder.annotations(attempts)
        if a.annotator == teacher.name and a.text is not None
    }
    episodes = [e for e in in_order(attempts) if e.turns and not e.outcome.mask]
    replays = []
    for episode in episodes:
        wanted = {n for n in range(len(episode.turns)) if (episode.episode_id, n) not in there}
        if needs_sandbox and episode.instance_id not in tasks:
            raise SetupError(
                f"{teacher.name} needs a sandbox, and the task {episode.instance_id} is not there"
            )
        task = tasks.get(episode.instance_id) or _words_of(episode)
        env = make_env(task) if needs_sandbox else None
        replays += [_Replay(episode, task, wanted, env)] if wanted else []
    total = sum(len(episode.turns) for episode in episodes)
    given, failed = total - sum(len(replay.wanted) for replay in replays), 0
    paid = teacher.paid(teacher.account(folders))
    size = min(concurrency, IN_SANDBOXES) if needs_sandbox else concurrency
    with display.phase(f"labels by {teacher.name}", total, given) as advance:
        for low in range(0, len(replays), size):
            for labels in _group(paid, replays[low : low + size], form):
                folder.add_annotations(labels)
                good = sum(label.text is not None for label in labels)
                given, failed = given + good, failed + len(labels) - good
                advance(len(labels), f"{failed} failed")
    return given, failed


def _words_of(episode: Episode) -> TaskInstance:
    """Stands for a task that is not available; a model reads only the problem statement."""
    statement = episode.turns[0].observation
    return TaskInstance(episode.instance_id, "", "", "", statement, "", "", (), (), "")


def _group(
    teacher: Policy, replays: Sequence[_Replay], form: ActionFormat
) -> Iterator[list[Annotation]]:
    """The labels of the episodes that lack one, turn by turn."""
    with ThreadPoolExecutor(len(replays), "replay") as pool:
        try:
            for turn in range(1 + max(max(replay.wanted) for replay in replays)):
                list(pool.map(lambda replay, turn=turn: replay.go_to(turn), replays))
                here = [replay for replay in replays if turn in replay.wanted]
                if here:
                    yield _ask(teacher, here, turn, form)
        finally:
            for replay in replays:
                if replay.env is not None:
                    replay.env.close()


def _ask(
    teacher: Policy, replays: Sequence[_Replay], turn: int, form: ActionFormat
) -> list[Annotation]:
    able = [replay for replay in replays if not replay.lost]
    replies = dict(
        zip(able, teacher.act([replay.state(turn, teacher) for replay in able]), strict=True)
    )
    return [
        label(
            replies.get(replay) or Reply(error=replay.lost),
            form,
            (replay.episode.episode_id, turn, teacher.name),
        )
        for replay in replays
    ]
