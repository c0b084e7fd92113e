"""What the name of a run's folder depends on: the configuration without what changes no result.

Two commands that give the same result share a folder, so that the second goes on where the first
stopped; every setting that could change the result leads to another folder.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

# (beta: an algorithm that uses the schedule holds it, so that others are not run once for each)
VOLATILE = ("beta", "cluster", "decided", "logging", "paths", "plan", "tracking", "workers")
# Of the section training: on what and how safely, not what comes of it
HOW_TRAINED = ("launch", "sharding", "save_every")
# What iteration 0 does not depend on: the algorithm that comes after it, and how it is measured
AFTER_ITERATION0 = ("algorithm", "rounds", "episodes_per_round", "evaluation", "overlap")

# Settings that came later, by section: at these values it is as if they were not there, so that
# older runs keep their names
AS_BEFORE: dict[str, dict[str, Any]] = {
    "evaluation": {"untrained": True, "ids": None, "who": "student", "samples": None},
    "teacher": {"scores": False, "tests": True, "rounds": 0, "verdict": True},
}
ENGINE = {"_target_": "algorithms.engine.trainer.EngineTrainer"}  # older runs had no other trainer
# Of the section serving: how it is done, not what is answered
WHERE_SERVED = ("urls", "server", "concurrency", "timeout", "stop_for_training")

# Of the section teacher, in an evaluation of it: where and how it is asked
WHERE_ASKED = ("base_url", "api_key_env", "timeout", "concurrency", "budget", "prices")
# What the making of teacher=trained depends on, and of its own section
MAKES_TEACHER = ("model", "tasks", "actions", "limits", "history")
MADE_FROM = ("seed", "tests", "episodes", "rounds", "episodes_per_round", "training")


def digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def resolved(cfg: DictConfig, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The configuration without what cannot change a result, and without ``without``."""
    data = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(data, dict)
    if data.get("history") is None:  # off is as if it were not there: older runs keep their names
        data.pop("history", None)
    if not data.get("overlap"):
        data.pop("overlap", None)
    if data.get("trainer") == ENGINE:
        data.pop("trainer")
    for section, settings in AS_BEFORE.items():
        for key, value in settings.items():
            found = data[section].get(key)
            if found == value and type(found) is type(value):  # 1 == True
                data[section].pop(key, None)
    if "rounds" not in data["teacher"]:
        data["teacher"].pop("episodes_per_round", None)
    for key in HOW_TRAINED:
        data["training"].pop(key, None)
    _drop_unlimited(data["teacher"])
    for name in WHERE_SERVED:
        data["serving"].pop(name, None)
    return {str(key): value for key, value in data.items() if key not in VOLATILE + without}


def _drop_unlimited(teacher: dict[str, Any]) -> None:
    """A budget without limits is none, and prices matter only where money is limited."""
    budget = teacher.get("budget") or {}
    if budget.get("money") is None:
        teacher.pop("prices", None)
    if all(limit is None for limit in budget.values()):
        teacher.pop("budget", None)


def evaluated_on(cfg: DictConfig) -> str:
    """Names the tasks of an evaluation, in the folder that runs with others share."""
    if cfg.evaluation.get("ids"):
        return f"{cfg.evaluation.split}-{digest(list(cfg.evaluation.ids))}"
    return f"{cfg.evaluation.split}-{cfg.evaluation.tasks}"


def untrained_tasks(cfg: DictConfig) -> int | None:
    """On how many of the evaluation's tasks the untrained student is measured; None: on all."""
    wanted = cfg.evaluation.get("untrained", True)
    return (None if wanted else 0) if isinstance(wanted, bool) else int(wanted)


def untrained_folder(cfg: DictConfig) -> str:
    """Of that evaluation, in the folder that runs with others share."""
    count = untrained_tasks(cfg)
    return f"{evaluated_on(cfg)}/untrained" + (f"-{count}" if count else "")
