"""From the resolved configuration to objects: the one place where names become classes.

Everything heavy (torch, transformers, the model) is imported or loaded when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from algorithms.base import Algorithm
from algorithms.trainer import Trainer
from experiments.config.algorithms import build_algorithm, build_trainer
from experiments.config.schema import HFServing
from experiments.config.stored import complete
from experiments.pipeline import precision, serving, teachers
from experiments.runs.inputs import refuse_changed
from experiments.runs.reader import load_config
from swe_gym_env import actions
from swe_gym_env.actions import ActionFormat
from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.policies.budget import Account, Budget, Budgeted, Prices, Spent
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import TaskInstance

if TYPE_CHECKING:
    import torch

    from algorithms.engine.learner import TrainingConfig
    from algorithms.engine.rendering import Renderer
    from algorithms.engine.scorer import HFScorer
    from algorithms.serving.fleet import Fleet
    from algorithms.serving.scorer import ServedScorer


class RunContext:
    """Everything that a run is made of."""

    def __init__(self, cfg: DictConfig) -> None:
        complete(cfg)  # a stored run may be older than some keys
        self.cfg = cfg

    def __getstate__(self) -> dict[str, Any]:
        """To another machine go the configuration and what counts tokens, which needs neither the
        model's folder nor torch there."""
        return {"cfg": self.cfg, "_count_tokens": self._count_tokens}

    @cached_property
    def provider(self) -> SandboxProvider:
        from swe_gym_env import sandbox
        from swe_gym_env.sandbox.warm import WarmProvider

        cfg = self.cfg.sandbox
        chosen = sandbox.provider(cfg.name)
        return WarmProvider(chosen, cfg.ahead) if cfg.get("ahead") else chosen

    @cached_property
    def teacher(self) -> Policy:
        return teachers.teacher(self)

    def account(self, folders: Sequence[RoundFolder]) -> Account:
        """The teacher's, in a run whose rounds so far are ``folders``; new costs go to the last."""
        cfg, name = self.cfg.teacher, self.teacher.name
        budget = Budget(**cfg.budget, prices=Prices(**cfg.prices))
        spent = sum((folder.spent(name) for folder in folders), Spent())
        return Account(budget, spent, lambda more: folders[-1].add_spent(name, more))

    def paid_teacher(self, account: Account) -> Policy:
        return Budgeted(self.teacher, account, lambda text: self._count_tokens(text))

    def student_form(self) -> ActionFormat:
        return actions.action_format(self.cfg.actions.name, self.cfg.actions.tools)

    @cached_property
    def algorithm(self) -> Algorithm:
        return build_algorithm(self.cfg.algorithm)

    @cached_property
    def iteration0(self) -> Algorithm:
        return build_algorithm(self.cfg.iteration0.algorithm, "iteration0.algorithm")

    @cached_property
    def trainer(self) -> Trainer:
        return build_trainer(self.cfg.get("trainer"))

    @cached_property
    def start(self) -> Path:
        """The untrained student: a Hugging Face folder."""
        from algorithms.engine.models import fetch

        return fetch(self.cfg.model.path)

    @cached_property
    def training(self) -> TrainingConfig:
        from algorithms.engine.learner import TrainingConfig

        given = OmegaConf.to_container(self.cfg.training, resolve=True)
        assert isinstance(given, dict)
        given.pop("launch", None)  # which processes do it
        try:
            return TrainingConfig(**given, seed=self.cfg.seed)  # type: ignore[arg-type]
        except ValueError as error:
            raise SetupError(str(error)) from None

    @property
    def precision(self) -> str:
        """The name of :attr:`dtype`; decided now where nobody has yet."""
        precision.settle(self)
        return self.cfg.decided.dtype

    @cached_property
    def dtype(self) -> torch.dtype:
        """In which the student computes. Reading it also sets the number of threads."""
        import torch

        name = self.precision
        torch.set_num_threads(precision.threads(self.cfg))
        return getattr(torch, name)

    @cached_property
    def renderer(self) -> Renderer:
        """Of the student's chat template. SetupError, before the first episode, if it has none."""
        from algorithms.engine.checkpoint import load_tokenizer
        from algorithms.engine.rendering import Renderer

        return Renderer(load_tokenizer(self.start), self.cfg.model.thinking)

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        # (the backend is safe to use from many threads)
        return partial(_count_tokens, self.renderer.tokenizer.backend_tokenizer)

    def check(self) -> None:
        """Builds what a mistake in the configuration would break hours later. Raises SetupError."""
        _ = self.account([])
        for algorithm in (self.iteration0, self.algorithm):
            try:
                self.trainer.check(algorithm, self.training)
            except ValueError as error:
                raise SetupError(f"algorithm={algorithm.name}: {error}") from None
        self._check_overlap()
        self.check_scores()

    def _check_overlap(self) -> None:
        overlap = self.cfg.overlap
        if overlap < 0:
            raise SetupError(f"overlap={overlap} counts rounds: it is 0 or more")
        if overlap and not self.cfg.training.launch:
            raise SetupError(
                f"overlap={overlap} collects while another process trains: say how that one is "
                "started, such as training.launch=[python]"
            )
        if overlap and self.cfg.serving.get("stop_for_training"):
            raise SetupError(
                f"overlap={overlap} collects while another process trains, so the servers must "
                "stay: serving.stop_for_training=false, on GPUs that training does not use"
            )

    def check_scores(self) -> None:
        """SetupError where the algorithm wants log-probs that the teacher cannot give."""
        from algorithms.engine.scorer import check_tokens

        scoring = self.algorithm.scoring
        if scoring is None or scoring.scorer != "teacher":
            return
        name = self.cfg.teacher.name
        if teachers.scores_served(self.cfg):
            teachers.served_scorer(self).check(self.algorithm.objective.temperature)
            return
        if name not in teachers.IN_PROCESS:
            raise SetupError(
                f"algorithm={self.cfg.algorithm.name} needs the teacher's log-probs, and "
                f"teacher={name} gives none: take a model with the student's tokenizer "
                "(teacher=trained, teacher=hf teacher.path=FOLDER, or one that a vLLM server has: "
                "teacher=server teacher.scores=true)"
            )
        check_tokens(teachers.folder(self.cfg), self.renderer.tokenizer)

    def scorer(self, folder: Path | None) -> HFScorer | ServedScorer:
        """Of the checkpoint in ``folder``; None is the teacher."""
        from algorithms.engine.scorer import HFScorer

        if folder is None and teachers.scores_served(self.cfg):
            return teachers.served_scorer(self)
        if folder is None:
            model, dtype, name = teachers.folder(self.cfg), teachers.dtype(self), self.teacher.name
        else:
            model, dtype, name = folder, self.dtype, "start"
        tokenizer, thinking = self.renderer.tokenizer, self.cfg.model.thinking
        return HFScorer.from_folder(model, dtype, tokenizer, name, thinking)

    def make_env(self, task: TaskInstance) -> SWEEnv:
        limits = self.cfg.limits
        return SWEEnv(
            [task],
            sandbox=self.provider,
            action_format=self.cfg.actions.name,
            tools=self.cfg.actions.tools,
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
        sampling, thinking = self.cfg.sampling, self.cfg.model.thinking
        how = {
            "temperature": sampling.temperature if temperature is None else temperature,
            "top_p": sampling.top_p if top_p is None else top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }
        if self.cfg.serving.name == "vllm":
            return LazyPolicy(lambda: serving.student(self, checkpoint or self.start, **how))
        return LazyPolicy(
            lambda: self.model(checkpoint or self.start, self.dtype, thinking=thinking, **how)
        )

    @cached_property
    def fleet(self) -> Fleet:
        """The servers of the student; they live until :meth:`close`."""
        return serving.fleet(self)

    def free_memory(self) -> None:
        """Before a model is trained or scores here: servers that share its GPU are stopped."""
        if "fleet" in self.__dict__ and self.cfg.serving.stop_for_training:
            self.fleet.stop()

    def close(self) -> None:
        """Ends what was started for the run."""
        if "fleet" in self.__dict__:
            self.fleet.close()

    def model(self, folder: Path, dtype: torch.dtype, **options: Any) -> Policy:
        """A policy in this process."""
        from algorithms.engine.hf_policy import HFPolicy

        cfg = self.cfg.serving
        return HFPolicy.from_folder(
            folder,
            dtype,
            max_context=cfg.max_context,
            batch_size=cfg.get("batch_size", HFServing.batch_size),
            cache_bytes=int(cfg.get("cache_gb", HFServing.cache_gb) * 2**30),
            **options,
        )


def _count_tokens(backend: Any, text: str) -> int:
    return len(backend.encode(text, add_special_tokens=False).ids)


def parts_of(run: Path) -> RunContext:
    """Those of the stored run in the folder ``run``.

    Raises:
        SetupError: The folder holds no run, or the run's model is no longer the same.
    """
    cfg = load_config(run)
    if "model" not in cfg:
        raise SetupError(f"{run}: its config.yaml names no model")
    refuse_changed(run, cfg, "model")
    return RunContext(cfg)
