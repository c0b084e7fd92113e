"""One turn of many episodes: who takes it, the turn itself, and the teacher's label.

Student and teacher are each asked one time for all their states, at the same time. When the teacher
executes a turn its label is that turn. A teacher that fails never costs an episode: the label
carries the error, and a turn that was the teacher's falls to the student, and is counted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from swe_gym_env.actions import ActionFormat, FormatError, read
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy, Reply, State
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.running import RunningEpisode
from swe_gym_env.text import joined, unusable, whole
from swe_gym_env.types import Annotation, ToolCall, Turn

log = logging.getLogger(__name__)


class TurnCollector:
    """``annotate``: ask the teacher in every state, not only where it acts."""

    def __init__(
        self, student: Policy, teacher: Policy | None, mixer: Mixer, annotate: bool
    ) -> None:
        self.student, self.teacher = student, teacher
        self.mixer, self.annotate = mixer, annotate
        self._aside = ThreadPoolExecutor(1, "teacher")
        self._asked: Future[dict[RunningEpisode, Reply]] | None = None

    def take(self, ready: Sequence[RunningEpisode]) -> list[Turn | str]:
        """For each episode the turn to execute, or the error of the student that had to act.

        The labels of the turns are added to the episodes.
        """
        if not ready:
            return []
        teacher_turns = [live for live in ready if self.mixer.actor(live.key("mixer")) == "teacher"]
        student_turns = [live for live in ready if live not in teacher_turns]
        labeled = ready if self.annotate else teacher_turns
        teacher_replies, student_replies = self._ask(labeled, student_turns)
        labels = {
            live: label(
                reply,
                live.env.form,
                (
                    live.request.episode_id,
                    len(live.turns),
                    self.teacher.name if self.teacher else "",
                ),
            )
            for live, reply in teacher_replies.items()
        }
        failed = [live for live in teacher_turns if labels[live].text is None]
        for live in failed:
            live.teacher_fallbacks += 1
        student_replies |= self._ask_student(failed)
        turns: list[Turn | str] = []
        for live in ready:
            turn = (
                _student_turn(live, student_replies[live])
                if live in student_replies
                else _teacher_turn(live, labels[live], teacher_replies[live])
            )
            if self.annotate and isinstance(turn, Turn):
                live.annotations.append(replace(labels[live], executed=live not in student_replies))
            turns.append(turn)
        return turns

    @property
    def busy(self) -> bool:
        """Is the teacher still being asked?"""
        return self._asked is not None and not self._asked.done()

    def close(self, wait: bool) -> None:
        self._aside.shutdown(wait=wait, cancel_futures=True)

    def _ask(
        self, labeled: Sequence[RunningEpisode], student_turns: Sequence[RunningEpisode]
    ) -> tuple[dict[RunningEpisode, Reply], dict[RunningEpisode, Reply]]:
        """Both at the same time, unless both work in the sandboxes."""
        if not labeled:
            return {}, self._ask_student(student_turns)
        if self.teacher is None:
            raise SetupError("a teacher is needed to act or to label, and none was given")
        asked = self._asked = self._aside.submit(self._ask_teacher, self.teacher, labeled)
        if self.teacher.needs_sandbox and self.student.needs_sandbox:
            wait([asked])
        replies = self._ask_student(student_turns)
        return asked.result(), replies

    def _ask_student(self, episodes: Sequence[RunningEpisode]) -> dict[RunningEpisode, Reply]:
        if not episodes:
            return {}
        states = [live.state("student", self.student) for live in episodes]
        return dict(zip(episodes, _replies(self.student, states), strict=True))

    @staticmethod
    def _ask_teacher(
        teacher: Policy, episodes: Sequence[RunningEpisode]
    ) -> dict[RunningEpisode, Reply]:
        states = [live.state("teacher", teacher) for live in episodes]
        try:
            return dict(zip(episodes, _replies(teacher, states), strict=True))
        except SetupError:
            raise
        except Exception as error:
            log.exception("the teacher failed in %d states", len(states))
            return {live: Reply(error=f"{type(error).__name__}: {error}") for live in episodes}


def _replies(policy: Policy, states: Sequence[State]) -> Sequence[Reply]:
    """SetupError if ``policy`` does not do what a policy promises."""
    replies = policy.act(states)
    if len(replies) != len(states) or not all(isinstance(reply, Reply) for reply in replies):
        raise SetupError(
            f"policy {policy.name!r} must return one Reply for each state, not "
            f"{str(replies)[:200]} for {len(states)} states"
        )
    return replies


def label(reply: Reply, action_format: ActionFormat, key: tuple[str, int, str]) -> Annotation:
    """The teacher's turn in the student's action format, or the reason why there is none. ``key``:
    episode, turn, annotator."""
    annotation = Annotation(*key, text=None)
    if reply.error:
        return replace(annotation, error=reply.error)
    try:
        call = reply.action or read(action_format, joined(reply.text or ""))
        text = action_format.render(call)
    except FormatError as error:
        return replace(annotation, error=f"format: {error}")
    if fault := unusable(text):
        return replace(annotation, error=f"format: {fault}")
    return replace(annotation, text=text, action=call)


def _student_turn(live: RunningEpisode, reply: Reply) -> Turn | str:
    """The student's text, whether it can be parsed or not; its error if there is no text."""
    text = reply.text
    if text is None and reply.action is not None:
        text = _written(reply.action, live.env.form)
    if reply.error or text is None:
        return reply.error or "an empty reply"
    return Turn(
        observation=live.observation,
        actor="student",
        text=whole(text),
        token_ids=reply.token_ids,
        logprobs=reply.logprobs,
        policy_version=reply.policy_version,
        act_seconds=reply.seconds,
    )


def _written(call: ToolCall, action_format: ActionFormat) -> str:
    """The text of a call that a server parsed out of the student's text. A call that the action
    format cannot express becomes a malformed turn."""
    try:
        return action_format.render(call)
    except FormatError:
        return json.dumps({"name": call.name, "arguments": dict(call.arguments)})


def _teacher_turn(live: RunningEpisode, label: Annotation, reply: Reply) -> Turn:
    assert label.text is not None
    return Turn(
        observation=live.observation,
        actor="teacher",
        text=label.text,
        policy_version=reply.policy_version,
        act_seconds=reply.seconds,
    )
