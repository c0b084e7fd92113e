"""What another teacher would have done in the states of stored episodes.

Episodes go in groups, turn by turn, so that a model gets the states of many episodes in one batch
and finds what it computed for the turn before. Only a teacher that needs the sandbox gets one: the
executed turns are played again in it. Where that goes another way than it did (a limit of seconds,
a sandbox that breaks) the rest of the episode stays unlabeled, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from experiments.console.progress import Display
from experiments.pipeline.build import Parts
from swe_gym_env.actions import ActionFormat
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.policies.base import Policy, Reply, State, shown
from swe_gym_env.rollout.history import windowed
from swe_gym_env.rollout.running import Request
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.rollout.turns import label
from swe_gym_env.types import Annotation, Episode, TaskInstance

IN_SANDBOXES = 8  # episodes at once where each needs a sandbox


@dataclass(eq=False)
class _Replay:
    """A stored episode gone through again: ``wanted`` are the turns that lack a label, ``lost``
    says why it cannot go on. ``env`` is None for a teacher that needs no sandbox."""

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
        """Bring the sandbox from the turn before to where ``turn`` is to be taken."""
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
    parts: Parts,
    folders: Sequence[RoundFolder],
    tasks: Mapping[str, TaskInstance],
    display: Display,
) -> tuple[int, int]:
    """Adds labels of ``parts.teacher`` to the last of ``folders``, the rounds of one run so far.
    How many it has given by now, and in how many states it failed.

    ``tasks`` by id; a teacher that needs no sandbox does not miss them.
    """
    own, teacher = folders[-1], parts.teacher
    there = {
        (a.episode_id, a.turn)
        for a in own.annotations()
        if a.annotator == teacher.name and a.text is not None
    }
    episodes = [e for e in own.episodes() if e.turns and not e.outcome.mask]
    replays = []
    for episode in episodes:
        wanted = {n for n in range(len(episode.turns)) if (episode.episode_id, n) not in there}
        if teacher.needs_sandbox and episode.instance_id not in tasks:
            raise SetupError(
                f"{teacher.name} needs a sandbox, and {episode.instance_id} is not there"
            )
        task = tasks.get(episode.instance_id) or _words_of(episode)
        env = parts.make_env(task) if teacher.needs_sandbox else None
        replays += [_Replay(episode, task, wanted, env)] if wanted else []
    total = sum(len(episode.turns) for episode in episodes)
    given, failed = total - sum(len(replay.wanted) for replay in replays), 0
    asked = parts.paid_teacher(parts.account(folders))
    most = parts.cfg.workers.concurrency
    size = min(most, IN_SANDBOXES) if teacher.needs_sandbox else most
    with display.phase(f"labels by {teacher.name}", total, given) as advance:
        for low in range(0, len(replays), size):
            for found in _group(asked, replays[low : low + size], parts.student_form()):
                own.add_annotations(found)
                good = sum(one.text is not None for one in found)
                given, failed = given + good, failed + len(found) - good
                advance(len(found), f"{failed} failed")
    return given, failed


def _words_of(episode: Episode) -> TaskInstance:
    """Of a task that is not at hand: a model looks at the words alone."""
    said = episode.turns[0].observation
    return TaskInstance(episode.instance_id, "", "", "", said, "", "", (), (), "")


def _group(
    teacher: Policy, replays: Sequence[_Replay], form: ActionFormat
) -> Iterator[list[Annotation]]:
    """Turn by turn, the labels of all that lack one there."""
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
