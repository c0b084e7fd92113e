"""Every key of a run's configuration: type, default, meaning, range, and what it affects.

This is the one place of defaults. The files of ``conf/`` include them by the name of the dataclass
(``defaults: - /Limits@_here_``) and hold only what differs on purpose. An algorithm's options stand
in its own dataclass (``algorithms/``), those of a task source in the signature of its ``load``.

``python -m experiments.config`` writes docs/reference/configuration.md from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from experiments.config.keys import (
    EVERYTHING,
    MEASURED,
    NOTHING,
    PLAYED,
    RESULT,
    WARM_START,
    key,
    required,
    section,
)
from experiments.config.teachers import TEACHERS, Teacher
from experiments.config.training import Training


@dataclass(kw_only=True)
class Iteration0:
    """The warm start: the student that every algorithm starts from, which runs that agree on
    it share."""

    algorithm: dict[str, Any] = key(
        {"_target_": "algorithms.sft.SFT"},
        "The method of the warm start: a class and its options",
        options=True,
    )
    episodes: int = key(96, "Episodes of the teacher, one per task", least=1)
    epochs: int = key(2, "Passes over them", least=1)
    lr: float = key(2e-4, "Learning rate", above=0)


@dataclass(kw_only=True)
class Limits:
    """When an episode ends whether or not the agent finished."""

    max_turns: int = key(10, "Turns of an episode", least=1)
    max_tokens: int = key(2048, "Tokens of the whole episode, counted by the student", least=1)
    max_seconds: float = key(300, "Wall time of an episode in seconds", above=0)
    max_format_errors: int = key(2, "Malformed turns in a row", least=1)
    max_repeats: int = key(3, "Repetitions of one action in a row", least=1)
    command_timeout: float = key(30, "Seconds of one command", above=0)
    grading_timeout: float = key(120, "Seconds of the task's tests", above=0)
    output_limit: int = key(1500, "Characters of a command's output that the agent sees", least=1)


@dataclass(kw_only=True)
class Sampling:
    """How the student samples while it collects, and with evaluation.samples. Otherwise a run
    measures greedily."""

    temperature: float = key(0.7, "Sampling temperature", least=0)
    top_p: float = key(0.9, "Nucleus sampling", above=0, most=1)
    max_new_tokens: int = key(64, "Tokens of one turn", least=1)


@dataclass(kw_only=True)
class Evaluation:
    """What is measured, and on which tasks."""

    split: str = key("heldout", "The tasks' split; several, separated by commas")
    tasks: int | None = key(56, "Tasks of each split; null: all", least=0)
    every_round: bool = key(False, "Measure after each round, not only after the last")
    untrained: bool | int = key(
        True,
        "Measure the untrained student: on all tasks, on none, or on the first N",
        least=0,
        absent=True,
    )
    ids: list[str] | None = key(
        None, "Ids of the tasks that count; null: the first evaluation.tasks", absent=None
    )
    who: Literal["student", "teacher"] = key(
        "student", "Who is measured, in python -m experiments.evaluate", absent="student"
    )
    samples: int | None = key(
        None,
        "Sampled episodes of each task, in python -m experiments.evaluate; null: one, greedy",
        least=1,
        absent=None,
    )


@dataclass(kw_only=True)
class Tasks:
    """Where the repositories come from."""

    name: str = required("The source: a family of swe_gym_env.tasks")
    train: int | None = key(None, "Training tasks to use at most; null: all", least=0)
    options: dict[str, Any] = required("Options of the source, as its function load takes them")


@dataclass(kw_only=True)
class SwebenchTasks(Tasks):
    """SWE-bench and its subsets."""

    build: Literal["docker", "sdist"] = key(
        "docker",
        "The published images, or rebuilt from PyPI without Docker (docs/guides/swebench.md)",
    )


@dataclass(kw_only=True)
class Sandbox:
    """Where commands run."""

    name: str = required("The sandbox: auto takes the best that isolates here")


@dataclass(kw_only=True)
class DockerSandbox(Sandbox):
    """Containers of a Docker Engine or Podman."""

    ahead: int = key(4, "Containers started ahead of need", least=0)


@dataclass(kw_only=True)
class Actions:
    """How a turn is written."""

    name: str = required("The action format")
    tools: list[str] | None = key(
        None, "Tools that are offered; null: all of the format", absent=None
    )


@dataclass(kw_only=True)
class HFServing:
    """The student answers in this process, many episodes in one batch."""

    name: Literal["hf"] = required("How the student answers")
    batch_size: int = key(64, "Episodes per forward pass", least=1, formerly="wave")
    max_context: int = key(4096, "Tokens of history and answer", least=1)
    cache_gb: float = key(2, "Keys and values kept between the turns of an episode, GB", least=0)


@dataclass(kw_only=True)
class Server:
    """vLLM servers that the run starts."""

    python: str | None = key(
        "${oc.env:SWE_GYM_VLLM_PYTHON,null}", "Interpreter of the environment with vLLM"
    )
    replicas: int = key(1, "Servers; each episode stays with one of them", least=1)
    tensor_parallel: int = key(1, "GPUs of one server", least=1)
    gpus: list[int] | None = key(None, "GPU numbers; null: from the first on")
    memory_share: float = key(0.9, "Share of a GPU's memory that a server takes", above=0, most=1)
    restarts: int = key(
        3, "Restarts of one server within an hour; after that the run ends", least=0
    )
    arguments: dict[str, Any] | None = key(None, "Other options of vLLM, {enforce_eager: true}")
    environment: dict[str, Any] | None = key(None, "Other environment variables")


@dataclass(kw_only=True)
class VLLMServing:
    """The student answers from vLLM servers, over HTTP (docs/guides/scale.md)."""

    name: Literal["vllm"] = required("How the student answers")
    max_context: int = key(4096, "Tokens of history and answer", least=1)
    concurrency: int = key(256, "Requests in flight", least=1, affects=NOTHING)
    timeout: float = key(1800, "Seconds of one request", above=0, affects=NOTHING)
    stop_for_training: bool = key(
        True, "Stop the servers while the student is trained or scored here", affects=NOTHING
    )
    urls: list[str] | None = key(
        None, "URLs of running servers; null: the run starts its own", affects=NOTHING
    )
    server: Server = section(Server, "The servers that the run starts", affects=NOTHING)


@dataclass(kw_only=True)
class Local:
    """Everything runs on this machine."""

    name: Literal["local"] = required("Which machines do the work")


@dataclass(kw_only=True)
class RayCluster:
    """Episodes run on the machines of a Ray cluster (docs/guides/scale.md)."""

    name: Literal["ray"] = required("Which machines do the work")
    address: str = key("local", "local: start Ray here; auto or HOST:6379: join a cluster")
    cpus: float = key(0.5, "CPUs of a node for each episode", least=0)
    memory_gb: float = key(1, "Memory of a node for each episode, GB", least=0)
    retries: int = key(3, "Retries of an episode whose machine or sandbox was lost", least=0)


@dataclass(kw_only=True)
class Logging:
    """What is shown while a run works."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = key("INFO", "Lowest level")
    seconds_between_lines: float = key(
        15, "Seconds between progress lines, without a terminal", least=0
    )


@dataclass(kw_only=True)
class Tracking:
    """Nothing but the run folder and its report."""

    name: Literal["none", "tensorboard", "wandb"] = required("The tracker")


@dataclass(kw_only=True)
class Wandb(Tracking):
    """Weights & Biases."""

    project: str = key("swe-gym-env", "The project")
    entity: str | None = key(None, "A user or team; null: your default")
    mode: Literal["online", "offline"] = key("online", "offline: files for `wandb sync`")


@dataclass(kw_only=True)
class Requires:
    """Without this hardware a run stops in seconds and says what is missing."""

    gpus: int = key(0, "GPUs", least=0)
    gpu_gb: float = key(0, "Memory of each, GB", least=0)


@dataclass(kw_only=True)
class Model:
    """The student."""

    name: str = required("A short name, for folders and tables")
    path: str = required("smollm2, the embedded one, or a Hugging Face folder")
    dtype: Any = key(
        "auto",
        "Precision; auto: whichever is measured to be faster on this machine",
        allowed="auto, bfloat16 or float32",
    )
    thinking: Literal["kept", "stripped", "empty"] = key(
        "kept", "For models that think: their thoughts in the history, or none"
    )
    requires: Requires = section(Requires, "The hardware that it needs")


@dataclass(kw_only=True)
class Workers:
    """How much is done at once."""

    concurrency: int = key(64, "Episodes in flight", least=1)
    commands: int | None = key(
        None, "Commands at the same time in sandboxes; null: two for each CPU", least=1
    )
    label_at: Literal["turn", "end"] = key(
        "turn", "When a teacher that needs no sandbox labels a state: then, or after the episode"
    )
    fixed_batches: bool | None = key(
        None,
        "Ask for the turns of all episodes together, so that a model's batches repeat; null: where "
        "student and teacher are in this process",
    )
    threads: Any = key(
        "auto",
        "CPU threads of the model; auto: one or all, as measured; null: all",
        allowed="auto, a whole number, 1 or more, or null",
    )
    build: int = key(2, "Processes that build tasks", least=1)
    max_faults: int = key(
        10, "Consecutive infrastructure failures of one kind that stop the run", least=1
    )


@dataclass(kw_only=True)
class Paths:
    """Where a run writes."""

    runs: str = key("runs", "The folder of all run folders")


@dataclass(kw_only=True)
class RunConfig:
    """The configuration of ``python -m experiments.run``."""

    seed: int = key(0, "Seed of tasks, sampling and training", least=0, affects=PLAYED)
    rounds: int = key(3, "Rounds of the algorithm after the warm start", least=0, affects=RESULT)
    episodes_per_round: int = key(24, "Tasks of a round, in turn", least=1, affects=RESULT)
    overlap: int = key(
        0,
        "Rounds collected while one trains; needs training.launch",
        least=0,
        affects=RESULT,
        absent=0,
    )
    history: int | None = key(
        None,
        "Newest observations that an agent still sees; null: all",
        least=1,
        affects=EVERYTHING,
        absent=None,
    )
    iteration0: Iteration0 = section(Iteration0, "The warm start", affects=WARM_START)
    algorithm: dict[str, Any] = required(
        "Who acts, who labels, what is learned", options=True, affects=RESULT
    )
    beta: dict[str, Any] = required(
        "The teacher's share of executed turns; algorithms that use it hold it as their option",
        options=True,
        affects=NOTHING,
    )
    teacher: Teacher = required(
        "Who is asked for its turn in every state", variants=TEACHERS, affects=PLAYED
    )
    tasks: Tasks = required(
        "Where the repositories come from",
        variants=dict.fromkeys(("swebench", "swebench_lite", "swebench_verified"), SwebenchTasks),
        fallback=Tasks,
        affects=EVERYTHING,
    )
    sandbox: Sandbox = required(
        "Where commands run",
        variants={"docker": DockerSandbox},
        fallback=Sandbox,
        affects=PLAYED,
    )
    actions: Actions = required("How a turn is written", affects=EVERYTHING)
    model: Model = required("The student", affects=EVERYTHING)
    limits: Limits = section(Limits, "When an episode ends", affects=EVERYTHING)
    sampling: Sampling = section(Sampling, "How the student samples", affects=PLAYED)
    training: Training = required("How the student is updated", affects=WARM_START)
    trainer: dict[str, Any] = required(
        "What trains the student: a class and its options",
        affects=("result", "iteration0", "teacher"),
        absent={"_target_": "algorithms.engine.trainer.EngineTrainer"},
    )
    serving: HFServing | VLLMServing = required(
        "How the student answers", variants={"hf": HFServing, "vllm": VLLMServing}, affects=PLAYED
    )
    evaluation: Evaluation = section(Evaluation, "What is measured", affects=MEASURED)
    cluster: Local | RayCluster = required(
        "Which machines do the work",
        variants={"local": Local, "ray": RayCluster},
        affects=NOTHING,
    )
    logging: Logging = required("What is shown", affects=NOTHING)
    tracking: Tracking = required(
        "TensorBoard or Weights & Biases",
        variants={"none": Tracking, "tensorboard": Tracking, "wandb": Wandb},
        affects=NOTHING,
    )
    workers: Workers = section(Workers, "How much is done at once", affects=NOTHING)
    paths: Paths = section(Paths, "Where a run writes", affects=NOTHING)
    decided: dict[str, Any] | None = key(
        None, "What auto was resolved to; each run writes it into its config.yaml", affects=NOTHING
    )
