"""The section ``teacher``: its keys depend on which teacher is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from experiments.config.keys import EVERYTHING, Effect, key, required, section
from experiments.config.training import Training

# How a teacher is reached does not change what it answers. A run is nevertheless named after it, so
# that stored runs keep their names; an evaluation of the teacher is not.
REACHED: tuple[Effect, ...] = ("result", "iteration0", "evaluation")


@dataclass(kw_only=True)
class Budget:
    """What the teacher may cost in one run, the warm start included. Once it is spent the run goes
    on: further states stay unlabeled and unscored, and the student takes the teacher's turns."""

    calls: float | None = key(None, "Calls; null: no limit", least=0)
    generated_tokens: float | None = key(None, "Tokens that it writes; null: no limit", least=0)
    scored_tokens: float | None = key(None, "Tokens that it scores; null: no limit", least=0)
    money: float | None = key(None, "Money, by teacher.prices; null: no limit", least=0)


@dataclass(kw_only=True)
class Prices:
    """Of a million tokens, in your currency."""

    prompt: float | None = key(None, "Prompt tokens; null: unknown", least=0)
    generated: float | None = key(None, "Generated tokens; null: unknown", least=0)
    scored: float | None = key(None, "Scored tokens; null: unknown", least=0)


@dataclass(kw_only=True)
class Teacher:
    """What every teacher has."""

    name: str = required("Which teacher")
    budget: Budget = section(Budget, "What it may cost", affects=REACHED, absent=None)
    prices: Prices = section(Prices, "What it costs", affects=REACHED, needs="budget.money")


@dataclass(kw_only=True)
class ExpertTeacher(Teacher):
    """A program that knows the reference patch and touches only what the history has shown."""

    name: Literal["expert"] = required("Which teacher")
    tests: bool = key(True, "Run the visible tests before it finishes: twice the time", absent=True)
    verdict: bool = key(True, "Do not finish after a wrong edit", absent=True)


@dataclass(kw_only=True)
class Writer(Teacher):
    """A model that writes turns."""

    temperature: float = key(0.7, "Sampling temperature", least=0)
    top_p: float = key(0.9, "Nucleus sampling", above=0, most=1)


@dataclass(kw_only=True)
class ServerTeacher(Writer):
    """Any OpenAI-compatible endpoint. For vLLM: ``vllm serve MODEL --port 8000``."""

    name: Literal["server"] = required("Which teacher")
    base_url: str = key("http://127.0.0.1:8000/v1", "The endpoint", affects=REACHED)
    model: str = key("Qwen/Qwen3-Coder-30B-A3B-Instruct", "The model's name there")
    scores: bool = key(
        False,
        "It is a vLLM server that reads the student's tokens: it gives log-probs",
        absent=False,
    )
    actions: str | None = key(None, "Action format that it writes; null: the student's")
    api_key_env: str = key(
        "OPENAI_API_KEY", "Environment variable that holds the key", affects=REACHED
    )
    max_tokens: int = key(4096, "Tokens of one turn", least=1)
    timeout: float = key(600, "Seconds of one request", above=0, affects=REACHED)
    concurrency: int = key(16, "Requests in flight", least=1, affects=REACHED)


@dataclass(kw_only=True)
class HFTeacher(Writer):
    """Another Hugging Face model in this process, with its own tokenizer and chat template. It
    gives log-probs only if its tokenizer is the student's."""

    name: Literal["hf"] = required("Which teacher")
    path: str = key("", "Its folder, teacher.path=FOLDER")
    dtype: Any = key(None, "Precision; null: the student's", allowed="bfloat16, float32 or null")
    actions: str | None = key(None, "Action format that it writes; null: the student's")
    max_new_tokens: int = key(256, "Tokens of one turn", least=1)


@dataclass(kw_only=True)
class TrainedTeacher(Writer):
    """A model of the student's kind that has learned from the expert, so that it samples turns and
    gives log-probs of the student's. ``python -m experiments.teacher`` makes it once, with the
    overrides of the run that uses it."""

    name: Literal["trained"] = required("Which teacher")
    path: str | None = key(None, "Its checkpoint; null: found by its settings", absent=None)
    seed: int = key(
        0, "Its seed, so that runs with other seeds share it", least=0, affects=EVERYTHING
    )
    episodes: int = key(
        144, "Episodes of the expert that it learns from", least=1, affects=EVERYTHING
    )
    rounds: int = key(
        0,
        "Additional DAgger rounds in which it acts alone and learns the expert's turns",
        least=0,
        affects=EVERYTHING,
        absent=0,
    )
    episodes_per_round: int = key(
        48, "Episodes of such a round", least=1, affects=EVERYTHING, needs="rounds"
    )
    tests: bool = key(
        True,
        "The expert runs the visible tests before it finishes",
        affects=EVERYTHING,
        absent=True,
    )
    val_tasks: int = key(0, "Measure it on this many tasks of the split val", least=0)
    training: Training = section(
        Training,
        "How it is trained, whatever the student's training is",
        affects=EVERYTHING,
        whole=True,
    )
    max_new_tokens: int = key(64, "Tokens of one turn", least=1)


@dataclass(kw_only=True)
class PolicyTeacher(Teacher):
    """A policy of another package, the class ``teacher._target_``."""

    name: Literal["policy"] = required("Which teacher")
    options: dict[str, Any] = key({}, "Options of the class")


TEACHERS = {
    "expert": ExpertTeacher,
    "server": ServerTeacher,
    "hf": HFTeacher,
    "trained": TrainedTeacher,
    "policy": PolicyTeacher,
}
