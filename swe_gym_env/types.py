"""The few data types that every part of the project passes to the next.

They are plain frozen dataclasses, so that an episode can be written as one line of JSON, read
without this package, and compared in a test. Nothing here imports anything heavier than the
standard library. The names of the fields are the keys of the stored files; a field that is renamed
must get an entry in ``_FORMER``, so that older files stay readable.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from swe_gym_env.text import shown

Actor = Literal["student", "teacher"]
Status = Literal["resolved", "unresolved", "empty_patch", "timeout", "infra_error", "tampered"]
EvalType = Literal["pass_and_fail", "fail_only"]

T = TypeVar("T")


@dataclass(frozen=True)
class TaskInstance:
    """One repository with one problem to solve. Most fields are those of a row of swebench 5.

    Attributes:
        instance_id: Unique name of the task within its task set.
        repo: Name of the repository, such as ``psf/requests``.
        base_commit: Commit to which the agent's changes are made. It may be a short hash or a tag.
        image: What a sandbox starts from: a Docker image, or the name of an image in the local
            store (``swe_gym_env.sandbox.images``).
        problem_statement: The bug report that the agent reads.
        gold_patch: The reference solution as a diff (``patch`` in a row). Hidden from the agent.
        test_patch: Diff that adds the hidden tests. Hidden from the agent.
        fail_to_pass: Ids of tests that fail before the problem is solved and must pass after it.
        pass_to_pass: Ids of tests that pass before and must still pass.
        eval_script: Shell script that installs and runs the hidden tests.
        log_parser: Name of the parser of the script's output (``swe_gym_env.grading.parsers``).
        eval_type: ``pass_and_fail`` if the output lists all tests; ``fail_only`` if it lists only
            failed ones, so that a test that is not named has passed.
        workdir: Absolute path of the repository in the sandbox.
        env: Environment variables of every command, in addition to those of the image.
        source: Name of the task set.
        split: Name of the split, such as ``train`` or ``heldout``.
        metadata: Further data of the task set: scripts that prepare a sandbox
            (``swe_gym_env.sandbox.start``), expected statuses (``expected``), difficulty and more.
    """

    instance_id: str
    repo: str
    base_commit: str
    image: str
    problem_statement: str
    gold_patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    eval_script: str
    log_parser: str = "pytest"
    eval_type: EvalType = "pass_and_fail"
    workdir: str = "/testbed"
    env: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    split: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskView:
    """The part of a task that a policy may know: its prompt and the place of the repository.

    It contains neither the gold patch nor anything of the hidden tests. The fields are those of
    :class:`TaskInstance`.
    """

    instance_id: str
    repo: str
    base_commit: str
    image: str
    problem_statement: str
    workdir: str = "/testbed"
    source: str = ""
    split: str = ""

    @classmethod
    def of(cls, task: TaskInstance) -> TaskView:
        """The view of ``task``."""
        return cls(**{spec.name: getattr(task, spec.name) for spec in dataclasses.fields(cls)})


@dataclass(frozen=True)
class ToolCall:
    """An action, independent of the format in which it was written.

    Attributes:
        name: Name of the tool.
        arguments: Values by name of the argument. They are text, since some formats have no other
            type; ``swe_gym_env.tools.schema`` converts them.
        reasoning: The text that came before the call, without thoughts.
    """

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    reasoning: str = ""


@dataclass(frozen=True)
class Outcome:
    """The verdict on an episode.

    Attributes:
        status: ``resolved``: the hidden tests pass. ``unresolved``: some do not. ``empty_patch``:
            the agent changed nothing. ``timeout``: the tests took too long. ``infra_error``: the
            infrastructure failed. ``tampered``: the patch interferes with the tests.
        reward: 1.0 if resolved, otherwise 0.0; always finite.
        mask: Whether the verdict says nothing about the agent (``infra_error``). Such an episode is
            not trained on and is left out of every mean.
        reason: Why, in one line for people. It may quote a log or the name of a file, so control
            characters in it become escapes (``\\x1b``) and cannot harm a terminal or a page.
        tests: Status of each test by its id, such as ``PASSED`` or ``ABSENT``. Empty if no test
            ran.
        seconds: Wall-clock time of the grading.
    """

    status: Status
    reward: float = 0.0
    mask: bool = False
    reason: str = ""
    tests: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shown(self.reason))

    @property
    def resolved(self) -> bool:
        return self.status == "resolved"


@dataclass(frozen=True)
class Turn:
    """One executed turn: the observation, who acted on it, and the action.

    Attributes:
        observation: What the actor saw: the task prompt in the first turn, afterwards the answer of
            the environment to the turn before.
        actor: Who acted, ``student`` or ``teacher``.
        text: The turn as it is part of the history, in the student's action format.
        action: The call that ``text`` contains; None if it contains no valid call.
        token_ids: Ids of the sampled tokens, the end-of-turn token included. Empty if no model in
            this process or behind vLLM sampled the turn.
        logprobs: Log-probability of each of ``token_ids`` when it was sampled; same length.
        policy_version: Version of the policy that sampled the turn.
        act_seconds: Wall-clock time until the policy had answered.
        step_seconds: Wall-clock time of the environment's step.
        patch: Diff of the sandbox after the turn, for readers only. None if it did not change or
            was not recorded; after the last turn it is the patch of the episode.
    """

    observation: str
    actor: Actor
    text: str
    action: ToolCall | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    policy_version: str = ""
    act_seconds: float = 0.0
    step_seconds: float = 0.0
    patch: str | None = None


@dataclass(frozen=True)
class Annotation:
    """What an annotator (a teacher) would have done in a state of an episode: a label.

    Annotations are stored beside the episode, keyed by (``episode_id``, ``turn``, ``annotator``).

    Attributes:
        episode_id: The episode.
        turn: Index of the turn, from 0; the state is everything before that turn's action.
        annotator: Name of the annotator.
        text: The label in the student's action format; None if the annotator failed.
        action: The call that ``text`` contains; None if it contains no valid call.
        executed: Whether the annotator itself took this turn. Then the label is that turn.
        error: How the annotator failed; empty if it did not.
    """

    episode_id: str
    turn: int
    annotator: str
    text: str | None
    action: ToolCall | None = None
    executed: bool = False
    error: str = ""


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of an executed turn under a model that shares the student's tokenizer.

    With n tokens in the turn as the student's chat template renders it (the end-of-turn token
    included) and k alternatives:

    Attributes:
        episode_id: The episode.
        turn: Index of the turn, from 0.
        scorer: Name of the model that scored.
        logprobs: Log-probability of each token, shape (n,).
        top_ids: Ids of the most likely tokens at each position, shape (n, k). Empty if they were
            not requested.
        top_logprobs: Their log-probabilities, shape (n, k).
    """

    episode_id: str
    turn: int
    scorer: str
    logprobs: tuple[float, ...]
    top_ids: tuple[tuple[int, ...], ...] = ()
    top_logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Episode:
    """A finished episode.

    Attributes:
        episode_id: Unique id: task, round, repeat and seed, joined by ``/``.
        instance_id: Id of the task.
        seed: Seed of the run.
        round: Round of the run in which it was collected, from 0 (the warm start).
        repeat: Which of several episodes of the same task in the same round, from 0.
        system_prompt: The system prompt of all turns.
        turns: The executed turns; ``turns[0].observation`` is the task prompt.
        outcome: The verdict.
        stop_reason: Why it ended: ``finished``, a budget such as ``max_turns``, or ``infra_error``.
        final_observation: Answer of the environment to the last turn, which nobody acted on.
        patch: The agent's change as a diff; empty if there is none.
        seconds: Wall-clock time from reset to verdict.
        metadata: Further data for reports, such as costs by part.
    """

    episode_id: str
    instance_id: str
    seed: int
    round: int
    repeat: int
    system_prompt: str
    turns: tuple[Turn, ...]
    outcome: Outcome
    stop_reason: str
    final_observation: str = ""
    patch: str = ""
    seconds: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def teacher_share(self) -> float:
        """Share of the executed turns that the teacher took, in [0, 1]."""
        taken = sum(turn.actor == "teacher" for turn in self.turns)
        return taken / len(self.turns) if self.turns else 0.0


def to_dict(value: Any) -> dict[str, Any]:
    """The JSON form of a dataclass; those in it, also in tuples, become objects too."""
    row: dict[str, Any] = {}
    for name, nested in _fields(type(value)):  # type: ignore[arg-type]
        part = getattr(value, name)
        if nested is None:
            row[name] = dict(part) if isinstance(part, Mapping) else part
        elif isinstance(part, tuple):
            row[name] = tuple(to_dict(one) for one in part)
        else:
            row[name] = None if part is None else to_dict(part)
    return row


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """Rebuild a dataclass from :func:`to_dict`.

    Unknown keys are ignored and missing ones get their default, so that files of other versions
    stay readable. Lists become tuples.

    Args:
        cls: One of the dataclasses above.
        data: Its JSON form.
    """
    kwargs: dict[str, Any] = {}
    for name, nested in _fields(cls):  # type: ignore[arg-type]
        if name in data:
            value = data[name]
        elif (former := _FORMER.get(name)) in data:
            value = data[former]  # type: ignore[index]
        else:
            continue
        if nested is not None and value is not None:
            many = isinstance(value, (list, tuple))
            value = tuple(from_dict(nested, v) for v in value) if many else from_dict(nested, value)
        elif type(value) is list:
            if list in map(type, value):
                value = (tuple(v) if type(v) is list else v for v in value)
            value = tuple(value)
        kwargs[name] = value
    return cls(**kwargs)


@functools.cache
def _fields(cls: type) -> tuple[tuple[str, type | None], ...]:
    """The name of each field, and the dataclass in it if there is one."""
    names = [spec.name for spec in dataclasses.fields(cls)]
    return tuple((name, _NESTED.get((cls.__name__, name))) for name in names)


_FORMER = {"actor": "executor"}  # name of a field -> its name in files of older versions

_NESTED: dict[tuple[str, str], type] = {
    ("Turn", "action"): ToolCall,
    ("Annotation", "action"): ToolCall,
    ("Episode", "turns"): Turn,
    ("Episode", "outcome"): Outcome,
}
