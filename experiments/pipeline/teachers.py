"""Who teaches: from the section ``teacher`` of the configuration to a policy."""

from __future__ import annotations

import shlex
from collections.abc import Callable
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

    from algorithms.engine.rendering import Renderer
    from algorithms.serving.scorer import ServedScorer

IN_PROCESS = ("hf", "trained")  # their weights are here, so that they can give log-probs


def teacher(cfg: DictConfig, student_format: ActionFormat, load: Callable[..., Policy]) -> Policy:
    """The teacher, unpaid.

    Args:
        cfg: The whole configuration.
        student_format: How the student writes turns.
        load: Makes a policy of a model in this process: the folder, its precision (None: the
            student's), and options of ``HFPolicy``. It is called when the teacher is first asked.

    Raises:
        SetupError: There is no such teacher.
    """
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
        return FormatAdapter(policy, written(cfg, student_format)) if section.actions else policy
    if section.name == "trained":  # reads the very ids of the student
        return LazyPolicy(lambda: _load(cfg, load), "trained")
    if section.name == "hf":
        model = LazyPolicy(lambda: _load(cfg, load), f"hf:{section.path}")
        return FormatAdapter(model, written(cfg, student_format))
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


def _load(cfg: DictConfig, load: Callable[..., Policy]) -> Policy:
    section = cfg.teacher
    return load(
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
