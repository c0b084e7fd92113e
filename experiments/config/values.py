"""Which values a setting may have. What is out of range is refused by its name, before anything is
built: a limit of -1 would else show hours later, or as episodes that end for no reason.

Settings that another part checks with more knowledge are not here: ``model.dtype``, the choices of
groups, an algorithm's options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from swe_gym_env.errors import SetupError

Rule = Callable[[Any], str | None]  # what the value must be, where it is not

MOST = 2**31 - 1  # larger whole numbers do not fit into what takes them


def _whole(least: int, null: bool = False) -> Rule:
    def wrong(value: Any) -> str | None:
        fits = type(value) is int and least <= value <= MOST
        other = ", or null" if null else ""
        return (
            None if fits or (null and value is None) else f"a whole number, {least} or more{other}"
        )

    return wrong


def _number(
    least: float = 0, most: float = math.inf, above: bool = False, null: bool = False
) -> Rule:
    """``above``: more than ``least``."""
    said = f"a number {'above' if above else 'from'} {least:g}"
    said += f" to {most:g}" if most < math.inf else "" if above else " on"
    said += ", or null" if null else ""

    def wrong(value: Any) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and least <= value <= most and not (above and value == least)
        return None if fits or (null and value is None) else said

    return wrong


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _names(value: Any) -> str | None:
    fits = value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    return None if fits else "a list of names, or null"


def _one_of(*choices: str) -> Rule:
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


RULES: dict[str, dict[str, Rule]] = {
    "": {
        "seed": _whole(0),
        "rounds": _whole(0),
        "episodes_per_round": _whole(1),
        "overlap": _whole(0),
        "history": _whole(1, null=True),
    },
    "iteration0": {"episodes": _whole(1), "epochs": _whole(1), "lr": _number(above=True)},
    "limits": {
        **dict.fromkeys(
            ("max_turns", "max_tokens", "max_format_errors", "max_repeats", "output_limit"),
            _whole(1),
        ),
        **dict.fromkeys(("max_seconds", "command_timeout", "grading_timeout"), _number(above=True)),
    },
    "sampling": {
        "temperature": _number(),
        "top_p": _number(0, 1, above=True),
        "max_new_tokens": _whole(1),
    },
    "evaluation": {
        "tasks": _whole(0, null=True),
        "every_round": _flag,
        "untrained": lambda value: None if _flag(value) is None else _whole(0, null=True)(value),
        "ids": _names,
        "who": _one_of("student", "teacher"),
        "samples": _whole(1, null=True),
    },
    "tasks": {"train": _whole(0, null=True)},
    "training": {
        **dict.fromkeys(
            ("batch_size", "epochs", "micro_batch_tokens", "max_tree_tokens"), _whole(1)
        ),
        "lr": _number(above=True),
        "lr_end": _number(0, 1),
        "warmup_steps": _whole(0),
        "weight_decay": _number(),
        "max_grad_norm": _number(above=True),
        "lora_rank": _whole(0),
        "checkpointing": _flag,
        "save_every": _whole(1, null=True),
    },
    "teacher": {
        "temperature": _number(),
        "top_p": _number(0, 1, above=True),
        **dict.fromkeys(("max_new_tokens", "max_tokens", "concurrency"), _whole(1)),
        "timeout": _number(above=True),
        **dict.fromkeys(("seed", "rounds", "val_tasks"), _whole(0)),
        **dict.fromkeys(("episodes", "episodes_per_round"), _whole(1)),
    },
    "teacher.budget": dict.fromkeys(
        ("calls", "generated_tokens", "scored_tokens", "money"), _number(null=True)
    ),
    "teacher.prices": dict.fromkeys(("prompt", "generated", "scored"), _number(null=True)),
    "serving": {
        **dict.fromkeys(("batch_size", "max_context", "concurrency"), _whole(1)),
        "cache_gb": _number(),
        "timeout": _number(above=True),
    },
    "sandbox": {"ahead": _whole(0)},
    "workers": dict.fromkeys(("concurrency", "build", "max_faults"), _whole(1)),
    "logging": {
        "level": _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "seconds_between_lines": _number(),
    },
}


def check(cfg: DictConfig) -> None:
    """SetupError that names every setting with a value that it cannot have."""
    said = []
    for section, rules in RULES.items():
        own = OmegaConf.select(cfg, section) if section else cfg
        if not isinstance(own, DictConfig):
            if own is not None:
                said.append(f"{section}={own}: it is a section of values: {section}.NAME=...")
            continue
        for name, rule in rules.items():
            if name not in own or OmegaConf.is_missing(own, name):
                continue
            value = own[name]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value)
            if wanted := rule(value):
                key = f"{section}.{name}" if section else name
                said.append(f"{key}={'null' if value is None else value}: it is {wanted}")
    if said:
        raise SetupError("\n".join(said))


def check_some(cfg: DictConfig, *keys: str) -> None:
    """SetupError where one of these is 0, of a command that has nothing to do then."""
    for key in keys:
        if OmegaConf.select(cfg, key) == 0:
            raise SetupError(f"{key}=0 leaves nothing to do: it is 1 or more")
