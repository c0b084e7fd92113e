"""Who teaches: from the section ``teacher`` of the configuration to a policy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from experiments.config.algorithms import build_policy
from experiments.runs.folders import trained_folder
from swe_gym_env import actions
from swe_gym_env.actions import ActionFormat
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import Policy
from swe_gym_env.policies.format_adapter import FormatAdapter
from swe_gym_env.policies.lazy import LazyPolicy

if TYPE_CHECKING:
    import torch

    from algorithms.serving.scorer import ServedScorer
    from experiments.pipeline.build import RunContext

IN_PROCESS = ("hf", "trained")  # their weights are here, so that they can give log-probs


def teacher(context: RunContext) -> Policy:
    cfg = context.cfg.teacher
    if cfg.name == "expert":
        from swe_gym_env.policies.expert import ExpertPolicy

        return ExpertPolicy(cfg.tests, cfg.verdict)
    if cfg.name == "server":
        from swe_gym_env.policies.server import ServerPolicy

        policy: Policy = ServerPolicy(
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
        return FormatAdapter(policy, form(context)) if cfg.actions else policy
    if cfg.name == "trained":  # reads the very ids of the student
        return LazyPolicy(lambda: _load(context), "trained")
    if cfg.name == "hf":
        return FormatAdapter(
            LazyPolicy(lambda: _load(context), f"hf:{cfg.path}"),
            form(context),
        )
    if cfg.name == "policy":
        return build_policy(cfg)
    raise SetupError(f"teacher.name={cfg.name}: it is expert, server, hf, trained or policy")


def scores_served(cfg: DictConfig) -> bool:
    """Whether the teacher is a server that also gives log-probs."""
    return cfg.teacher.name == "server" and cfg.teacher.scores


def served_scorer(context: RunContext) -> ServedScorer:
    """teacher=server, where it also gives log-probs."""
    from algorithms.serving.scorer import ServedScorer

    cfg = context.cfg.teacher
    return ServedScorer(
        cfg.base_url,
        cfg.model,
        context.renderer,
        name=cfg.model,
        api_key_env=cfg.api_key_env,
        timeout=cfg.timeout,
        concurrency=cfg.concurrency,
    )


def form(context: RunContext) -> ActionFormat:
    """``teacher.actions``, with those of the student's tools that it can say."""
    name, student = context.cfg.teacher.get("actions"), context.student_form()
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


def dtype(context: RunContext) -> torch.dtype:
    import torch

    name = context.cfg.teacher.get("dtype")
    return getattr(torch, name) if name else context.dtype


def _load(context: RunContext) -> Policy:
    cfg = context.cfg.teacher
    return context.model(
        folder(context.cfg),
        dtype(context),
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        max_new_tokens=cfg.max_new_tokens,
        thinking=context.cfg.model.thinking if cfg.name == "trained" else "kept",
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
