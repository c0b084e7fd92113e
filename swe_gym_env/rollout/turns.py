"""One turn of one episode: who takes it, the turn itself, and the teacher's label.

When the teacher executes a turn, its label is that turn. Otherwise the label is needed only for
training, so the episode goes on without waiting for it, unless the teacher looks into the sandbox,
which must not change meanwhile. With ``label_at="end"`` the teacher is asked after the episode, for
one state after the other, so that a server's cache has each prompt's beginning, and not at all for
an episode that nobody will learn from.

A teacher that fails never costs an episode: the label carries the error, and a turn that was the
teacher's falls to the student, and is counted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import Literal

from swe_gym_env.actions import ActionFormat, FormatError, read
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy, Reply
from swe_gym_env.policies.submit import release
from swe_gym_env.rollout.asking import Asking, Question
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.rollout.running import RunningEpisode
from swe_gym_env.text import joined, unusable, whole
from swe_gym_env.types import Annotation, Episode, ToolCall, Turn

log = logging.getLogger(__name__)

LabelAt = Literal["turn", "end"]


@dataclass(frozen=True)
class TurnCollector:
    """Asks for the turns of any number of episodes, each in its own thread.

    Attributes:
        asking: Takes the questions.
        student: Acts.
        teacher: Acts where the mixer says so, and labels.
        mixer: Decides who acts.
        annotate: Whether the teacher is asked in every state, not only where it acts.
        label_at: When it is asked: in its ``turn``, or at the ``end`` of the episode. One that
            needs the sandbox is always asked in the turn.
        learned: Whether an episode that has ended will be learned from. Labels at the end are asked
            only for one that is.
    """

    asking: Asking
    student: Policy
    teacher: Policy | None
    mixer: Mixer
    annotate: bool
    label_at: LabelAt
    learned: Callable[[Episode], bool]

    def take(self, live: RunningEpisode) -> Turn | str:
        """The turn to execute, or the error of the student that had to act. The label of the turn,
        or what it will come from, is added to ``live.labels``."""
        teacher = self.teacher
        taught = self.mixer.actor(live.key("mixer")) == "teacher"
        if not taught and (not self.annotate or self._later):
            return self._labeled(live, None, self._student(live))
        if teacher is None:
            raise SetupError("a teacher is needed to act or to label, and none was given")
        if taught:
            (asked,) = self.asking.ask(live.order, [self._question(live, teacher, "teacher")])
            reply = self._reply(asked)
            label = self._label(live, reply)
            if label.text is not None:
                return self._labeled(live, label, _teacher_turn(live, label, reply))
            live.teacher_fallbacks += 1
            return self._labeled(live, label, self._student(live))
        if teacher.needs_sandbox and self.student.needs_sandbox:  # one after the other
            (asked,) = self.asking.ask(live.order, [self._question(live, teacher, "teacher")])
            label = self._label(live, self._reply(asked))
            return self._labeled(live, label, self._student(live))
        questions = [(self.student, "student"), (teacher, "teacher")]
        answered, asked = self.asking.ask(
            live.order, [self._question(live, policy, role) for policy, role in questions]
        )
        pending = self._label(live, self._reply(asked)) if teacher.needs_sandbox else asked
        return self._labeled(live, pending, _student_turn(live, answered.result()))

    def labels(self, live: RunningEpisode, episode: Episode) -> list[Annotation]:
        """Those of all executed turns, when the episode has ended. Waits for what is missing."""
        if not self.annotate:
            return []
        found = []
        asks = self._later and self.learned(episode)
        for turn, label in enumerate(live.labels[: len(episode.turns)]):
            if isinstance(label, Annotation):
                found.append(label)
            elif isinstance(label, Future):
                found.append(self._label(live, self._reply(label), turn))
            elif asks:
                assert self.teacher is not None
                state = live.state("teacher", self.teacher, turn)
                (asked,) = self.asking.ask(live.order, [(self.teacher, state)])
                found.append(self._label(live, self._reply(asked), turn))
        return found

    def ended(self, live: RunningEpisode) -> None:
        """However it ended: what was asked and is not there yet is not needed any more, and
        policies that keep something for the episode may let go of it."""
        for label in live.labels:
            if isinstance(label, Future):
                label.cancel()
        release(self.student, live.key("student"))
        release(self.teacher, live.key("teacher"))

    @property
    def _later(self) -> bool:
        needs_sandbox = self.teacher is not None and self.teacher.needs_sandbox
        return self.annotate and self.label_at == "end" and not needs_sandbox

    @staticmethod
    def _question(live: RunningEpisode, policy: Policy, role: str) -> Question:
        return policy, live.state(role, policy)

    def _student(self, live: RunningEpisode) -> Turn | str:
        (asked,) = self.asking.ask(live.order, [self._question(live, self.student, "student")])
        return _student_turn(live, asked.result())

    @staticmethod
    def _reply(asked: Future[Reply]) -> Reply:
        """The teacher's; what it raises becomes an error of the reply."""
        try:
            return asked.result()
        except (SetupError, CancelledError):
            raise
        except Exception as error:
            log.error("the teacher failed", exc_info=error)
            return Reply(error=f"{type(error).__name__}: {error}")

    def _label(self, live: RunningEpisode, reply: Reply, turn: int | None = None) -> Annotation:
        number = len(live.turns) if turn is None else turn
        name = self.teacher.name if self.teacher else ""
        return label(reply, live.env.form, (live.request.episode_id, number, name))

    def _labeled(
        self, live: RunningEpisode, label: Annotation | Future[Reply] | None, turn: Turn | str
    ) -> Turn | str:
        if isinstance(turn, Turn):
            if isinstance(label, Annotation):
                label = replace(label, executed=turn.actor == "teacher")
            live.labels.append(label)
        return turn


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
