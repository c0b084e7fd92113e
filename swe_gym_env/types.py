"""The few values that every part passes to the next.

They are plain frozen dataclasses so that an episode can be written as one line of JSON, read
without this package, and compared in a test. Nothing here imports anything heavier than the
standard library.
"""

from __future__ import annotations

import dataclasses
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
    """One repository with one problem. The field names are those of a swebench 5 row.

    ``image`` names what a sandbox starts from: a Docker image, or an unpacked image in the local
    store (``swe_gym_env.sandbox.images``). ``env`` is set for every command on top of the image's
    own. ``gold_patch`` is the row's ``patch``.
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
    """What a policy may know of a task: what its prompt says, and where the repository is. Neither
    the gold patch nor anything of the hidden tests is in it."""

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
        return cls(**{spec.name: getattr(task, spec.name) for spec in dataclasses.fields(cls)})


@dataclass(frozen=True)
class ToolCall:
    """The canonical action between any two formats: which tool, with which arguments, and why.

    Arguments are text, since not every format can say more; ``tools/schema.py`` reads them.
    """

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    reasoning: str = ""


@dataclass(frozen=True)
class Outcome:
    """The verdict on an episode. ``reward`` is always finite.

    ``mask`` is True where the verdict says nothing about the agent (``infra_error``): such an
    episode trains nothing and counts in no mean. ``reason`` may quote a log or a file's name, so
    control characters in it become escapes (``\\x1b``): no terminal or page needs to fear it.
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
    """One executed turn: what was seen, who acted, and what was done.

    ``text`` is what stands in the history, in the student's action format. ``token_ids`` and
    ``logprobs`` have one entry per sampled token, the end-of-turn token included; both are empty
    where no model of ours sampled the turn. ``action`` is None where the text held no valid call.
    ``patch`` is what stood changed in the sandbox afterwards, for readers alone; None: no other
    than before, or not looked at, as after the last turn, whose patch is the episode's.
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
    """What an annotator would have done in a visited state, stored beside the episode.

    Keyed by (``episode_id``, ``turn``, ``annotator``). ``text`` is the label rendered in the
    student's action format; None means that the annotator failed, and ``error`` says how. Where
    the annotator itself executed the turn the label is that turn (``executed`` is True).
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
    """What a model that shares the student's tokenizer thinks of an executed turn, token by token.

    ``logprobs`` has one entry per token of the turn as the student's template lays it out, the
    end-of-turn token included. ``top_ids`` and ``top_logprobs`` hold, for the same places, the k
    most likely tokens; they are empty where they were not asked for.
    """

    episode_id: str
    turn: int
    scorer: str
    logprobs: tuple[float, ...]
    top_ids: tuple[tuple[int, ...], ...] = ()
    top_logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Episode:
    """A finished episode. ``turns[0].observation`` is the task prompt."""

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
    """The JSON form of any of the dataclasses above."""
    return dataclasses.asdict(value)


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """Rebuild ``cls`` from :func:`to_dict`. Unknown keys are ignored: old files stay readable."""
    kwargs: dict[str, Any] = {}
    for spec in dataclasses.fields(cls):  # type: ignore[arg-type]
        key = spec.name
        if key not in data:
            key = _FORMER.get(key, key)
            if key not in data:
                continue
        value = data[key]
        nested = _NESTED.get((cls.__name__, spec.name))
        if nested is not None and value is not None:
            many = isinstance(value, (list, tuple))
            value = tuple(from_dict(nested, v) for v in value) if many else from_dict(nested, value)
        elif isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        kwargs[spec.name] = value
    return cls(**kwargs)


_FORMER = {"actor": "executor"}  # names of fields in files of older versions

_NESTED: dict[tuple[str, str], type] = {
    ("Turn", "action"): ToolCall,
    ("Annotation", "action"): ToolCall,
    ("Episode", "turns"): Turn,
    ("Episode", "outcome"): Outcome,
}
