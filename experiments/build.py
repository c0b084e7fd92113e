"""From the resolved configuration to objects: the one place where names become classes.

Everything heavy (torch, transformers, the model) is imported or loaded when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from algorithms.base import Algorithm
from swe_gym_env.agents.base import Policy, Reply, State
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import TaskInstance

if TYPE_CHECKING:
    import torch

    from algorithms.engine.learner import TrainingConfig
    from algorithms.engine.rendering import Renderer
    from algorithms.engine.scorer import HFScorer


class Parts:
    """Everything that a run is made of."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    @cached_property
    def provider(self) -> SandboxProvider:
        from swe_gym_env import sandbox
        from swe_gym_env.sandbox.warm import WarmProvider

        cfg = self.cfg.sandbox
        chosen = sandbox.provider(cfg.name)
        return WarmProvider(chosen, cfg.ahead) if cfg.get("ahead") else chosen

    @cached_property
    def teacher(self) -> Policy:
        return teacher(self.cfg.teacher)

    @cached_property
    def algorithm(self) -> Algorithm:
        return algorithm(self.cfg.algorithm)

    @cached_property
    def iteration0(self) -> Algorithm:
        return algorithm(self.cfg.iteration0.algorithm)

    @cached_property
    def start(self) -> Path:
        """The untrained student: a Hugging Face folder."""
        from algorithms.engine.models import fetch

        return fetch(self.cfg.model.path)

    @cached_property
    def training(self) -> TrainingConfig:
        from algorithms.engine.learner import TrainingConfig

        return TrainingConfig(**OmegaConf.to_container(self.cfg.training), seed=self.cfg.seed)  # type: ignore[arg-type]

    @cached_property
    def dtype(self) -> torch.dtype:
        import torch

        if self.cfg.workers.threads:
            torch.set_num_threads(self.cfg.workers.threads)
        return getattr(torch, self.cfg.model.dtype)

    @cached_property
    def renderer(self) -> Renderer:
        """Of the student's chat template. SetupError, before the first episode, if it has none."""
        from algorithms.engine.checkpoint import load_tokenizer
        from algorithms.engine.rendering import Renderer

        return Renderer(load_tokenizer(self.start), self.cfg.model.thinking)

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        backend = self.renderer.tokenizer.backend_tokenizer  # safe to use from many threads
        return lambda text: len(backend.encode(text, add_special_tokens=False).ids)

    def scorer(self, folder: Path | None) -> HFScorer:
        """Of the checkpoint in ``folder``; None is the teacher."""
        from algorithms.engine.checkpoint import load_tokenizer
        from algorithms.engine.scorer import HFScorer

        if folder is None and not self.cfg.teacher.get("path"):
            raise SetupError(
                f"algorithm={self.cfg.algorithm.name} needs the teacher's log-probs, and "
                f"teacher={self.cfg.teacher.name} gives none: take a model with the student's "
                "tokenizer (teacher=hf teacher.path=FOLDER)"
            )
        name = "start" if folder else self.cfg.teacher.name
        tokenizer = load_tokenizer(self.start)
        source, thinking = folder or self.cfg.teacher.path, self.cfg.model.thinking
        return HFScorer.from_folder(source, self.dtype, tokenizer, name, thinking)

    def make_env(self, task: TaskInstance) -> SWEEnv:
        limits = self.cfg.limits
        return SWEEnv(
            [task],
            sandbox=self.provider,
            action_format=self.cfg.actions.name,
            tools=self.cfg.actions.get("tools"),
            max_turns=limits.max_turns,
            max_tokens=limits.max_tokens,
            max_seconds=limits.max_seconds,
            max_format_errors=limits.max_format_errors,
            max_repeats=limits.max_repeats,
            command_timeout=limits.command_timeout,
            output_limit=limits.output_limit,
            grade="deferred",
            grade_timeout=limits.grading_timeout,
            count_tokens=self._count_tokens,
        )

    def student(
        self,
        checkpoint: Path | None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Policy:
        """``checkpoint`` None is the untrained model; the rest defaults to ``sampling``."""
        own = self.cfg.sampling
        return LateStudent(
            lambda: self._load(
                checkpoint or self.start,
                own.temperature if temperature is None else temperature,
                own.top_p if top_p is None else top_p,
            )
        )

    def _load(self, checkpoint: Path, temperature: float, top_p: float) -> Policy:
        from algorithms.engine.hf_policy import HFPolicy

        serving = self.cfg.serving
        return HFPolicy.from_folder(
            checkpoint,
            self.dtype,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=self.cfg.sampling.max_new_tokens,
            max_context=serving.max_context,
            wave=serving.wave,
            cache_bytes=int(serving.cache_gb * 2**30),
            thinking=self.cfg.model.thinking,
        )


class LateStudent:
    """Loads the model when it is first asked for a turn: never where only the teacher acts."""

    name = "student"
    needs_box = False

    def __init__(self, load: Callable[[], Policy]) -> None:
        self._load = load
        self._policy: Policy | None = None

    def act(self, states: Sequence[State]) -> list[Reply]:
        if self._policy is None:
            self._policy = self._load()
        return self._policy.act(states)


def teacher(cfg: DictConfig) -> Policy:
    if cfg.name == "expert":
        from swe_gym_env.agents.expert import ExpertPolicy

        return ExpertPolicy()
    if cfg.name == "server":
        from swe_gym_env.agents.server import ServerPolicy

        return ServerPolicy(
            cfg.base_url,
            cfg.model,
            name=cfg.model,
            api_key_env=cfg.api_key_env,
            temperature=cfg.temperature,
            max_tokens=cfg.max_tokens,
            timeout=cfg.timeout,
            concurrency=cfg.concurrency,
            extra={"top_p": cfg.top_p},
        )
    raise SetupError(f"teacher.name={cfg.name}: it is expert or server")


def algorithm(cfg: DictConfig) -> Algorithm:
    """The class that ``_target_`` names, with the group's other keys as its options."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = str(cfg.get("_target_"))
    if not target.startswith("algorithms."):
        raise SetupError(
            f"algorithm._target_={target}: it names a class of the package algorithms, such as "
            "algorithms.dagger.DAgger"
        )
    try:
        return instantiate(cfg, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise SetupError(f"algorithm={cfg.get('name')}: {cause}") from None
