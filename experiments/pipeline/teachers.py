"""Who teaches: from the section ``teacher`` of the configuration to policies and scorers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from algorithms.base import Algorithm
from experiments.config.algorithms import build_policy
from experiments.runs.folders import trained_folder
from swe_gym_env import actions
from swe_gym_env.actions import ActionFormat
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.policies.budget import Account, Budget, Budgeted, Prices, Spent
from swe_gym_env.policies.format_adapter import FormatAdapter
from swe_gym_env.policies.lazy import LazyPolicy
from swe_gym_env.rollout.store import RoundFolder

if TYPE_CHECKING:
    import torch

    from algorithms.engine.rendering import Renderer
    from algorithms.engine.scorer import HFScorer
    from algorithms.serving.scorer import ServedScorer
    from experiments.pipeline.student import Student

IN_PROCESS = ("hf", "trained")  # their weights are here, so that they can give log-probs


class Teacher:
    """The teacher of a run: it acts and labels, and may give log-probs.

    Args:
        cfg: The whole resolved configuration.
        student: The teacher reads and writes the student's turns, and counts tokens as it does. A
            model that teaches in this process is loaded with the student's limits.
    """

    def __init__(self, cfg: DictConfig, student: Student) -> None:
        self._cfg, self._student = cfg, student

    @cached_property
    def policy(self) -> Policy:
        """Without a budget. SetupError where there is no such teacher."""
        return _policy(self._cfg, self._student)

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def prices(self) -> Prices:
        return Prices(**self._cfg.teacher.prices)

    def account(self, folders: Sequence[RoundFolder]) -> Account:
        """The account of a run whose rounds so far are ``folders``; new costs go to the last one.

        Raises:
            SetupError: There is no such teacher, or no such budget.
        """
        name = self.name
        budget = Budget(**self._cfg.teacher.budget, prices=self.prices)
        spent = sum((folder.spent(name) for folder in folders), Spent())
        return Account(budget, spent, lambda more: folders[-1].add_spent(name, more))

    def paid(self, account: Account) -> Policy:
        """The policy for as long as ``account`` lasts."""
        return Budgeted(self.policy, account, self._student.count_tokens)

    def check_scores(self, algorithm: Algorithm) -> None:
        """SetupError where ``algorithm`` wants log-probs that the teacher cannot give."""
        from algorithms.engine.scorer import check_tokens

        scoring = algorithm.scoring
        if scoring is None or scoring.scorer != "teacher":
            return
        name = self._cfg.teacher.name
        if scores_served(self._cfg):
            scorer = served_scorer(self._cfg, self._student.renderer)
            scorer.check(algorithm.objective.temperature)
            return
        if name not in IN_PROCESS:
            raise SetupError(
                f"algorithm={algorithm.name} needs the teacher's log-probs, and "
                f"teacher={name} gives none: take a model with the student's tokenizer "
                "(teacher=trained, teacher=hf teacher.path=FOLDER, or one that a vLLM server has: "
                "teacher=server teacher.scores=true)"
            )
        check_tokens(folder(self._cfg), self._student.renderer.tokenizer)

    def scorer(self) -> HFScorer | ServedScorer:
        """Gives the teacher's log-probs. SetupError where its tokens are not the student's."""
        from algorithms.engine.scorer import HFScorer

        cfg, student = self._cfg, self._student
        if scores_served(cfg):
            return served_scorer(cfg, student.renderer)
        model, name, precision = folder(cfg), self.name, dtype(cfg) or student.dtype
        tokenizer = student.renderer.tokenizer
        return HFScorer.from_folder(model, precision, tokenizer, name, cfg.model.thinking)


def _policy(cfg: DictConfig, student: Student) -> Policy:
    section = cfg.teacher
    if section.name == "expert":
        from swe_gym_env.policies.expert import ExpertPolicy

        return ExpertPolicy(section.tests, section.verdict)
    if section.name == "server":
        from swe_gym_env.policies.server import ServerPolicy

        policy: Policy = ServerPolicy(
            section.base_url,
            section.model,
            name=section.model,
            api_key_env=section.api_key_env,
            temperature=section.temperature,
            max_tokens=section.max_tokens,
            timeout=section.timeout,
            concurrency=section.concurrency,
            extra={"top_p": section.top_p},
        )
        return FormatAdapter(policy, written(cfg, student.form)) if section.actions else policy
    if section.name == "trained":  # reads the very ids of the student
        return LazyPolicy(lambda: _load(cfg, student), "trained")
    if section.name == "hf":
        model = LazyPolicy(lambda: _load(cfg, student), f"hf:{section.path}")
        return FormatAdapter(model, written(cfg, student.form))
    if section.name == "policy":
        return build_policy(section)
    raise SetupError(f"teacher.name={section.name}: it is expert, server, hf, trained or policy")


def scores_served(cfg: DictConfig) -> bool:
    """Whether the teacher is a server that also gives log-probs."""
    return cfg.teacher.name == "server" and cfg.teacher.scores


def served_scorer(cfg: DictConfig, renderer: Renderer) -> ServedScorer:
    """teacher=server, where it also gives log-probs."""
    from algorithms.serving.scorer import ServedScorer

    section = cfg.teacher
    return ServedScorer(
        section.base_url,
        section.model,
        renderer,
        name=section.model,
        api_key_env=section.api_key_env,
        timeout=section.timeout,
        concurrency=section.concurrency,
    )


def written(cfg: DictConfig, student: ActionFormat) -> ActionFormat:
    """The format of ``teacher.actions``, with those of the student's tools that it can write."""
    name = cfg.teacher.get("actions")
    if name in (None, student.name):
        return student
    offered = {tool.name for tool in student.tools}
    can = [tool.name for tool in actions.action_format(name).tools if tool.name in offered]
    return actions.action_format(name, can)


def folder(cfg: DictConfig) -> Path:
    """Of a teacher that is a model in this process. SetupError where there is none."""
    if cfg.teacher.name == "trained":
        return _trained(cfg)
    path = cfg.teacher.path
    if not path or not (Path(path) / "config.json").is_file():
        raise SetupError(
            f"teacher={cfg.teacher.name}: teacher.path={path} is no Hugging Face model folder; "
            "fetch one (hf download NAME --local-dir FOLDER) and give teacher.path=FOLDER"
        )
    return Path(path)


def dtype(cfg: DictConfig) -> torch.dtype | None:
    """Precision of a teacher in this process; None: the student's."""
    import torch

    name = cfg.teacher.get("dtype")
    return getattr(torch, name) if name else None


def _load(cfg: DictConfig, student: Student) -> Policy:
    section = cfg.teacher
    return student.model(
        folder(cfg),
        dtype(cfg),
        temperature=section.temperature,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        thinking=cfg.model.thinking if section.name == "trained" else "kept",
    )


def _trained(cfg: DictConfig) -> Path:
    """The checkpoint of teacher=trained. SetupError, with the command, where nobody made it yet."""
    from hydra.core.hydra_config import HydraConfig

    if given := cfg.teacher.get("path"):
        return Path(given)
    run = trained_folder(cfg)
    checkpoint = run.round(cfg.teacher.rounds).checkpoint
    if (checkpoint / "config.json").is_file():
        return checkpoint
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else ["..."]
    raise SetupError(
        f"teacher=trained: there is no trained teacher in {run.path} yet. Make it with\n"
        f"  {shlex.join(['python', '-m', 'experiments.teacher', *given])}"
    )
